"""A small server in Kaggle's place: it reads requests and writes answers with kagglesdk's own types."""

import importlib
import json
import re
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kagglesdk.datasets.types.dataset_enums import DatabundleVersionStatus
from kagglesdk.kernels.types.kernels_enums import KernelWorkerStatus
from kagglesdk.security.types import oauth_service

TYPES = [
    importlib.import_module(f"kagglesdk.{name}_api_service")
    for name in ("blobs.types.blob", "competitions.types.competition", "datasets.types.dataset", "kernels.types.kernels",
                 "models.types.model")
] + [oauth_service]  # fmt: skip


def kind(name):
    """The client's type of that name."""
    return next(getattr(module, name) for module in TYPES if hasattr(module, name))


def made(name, **fields):
    """An answer."""
    answer = kind(name)()
    for field, value in fields.items():
        setattr(answer, field, value)
    return answer


class Fault(Exception):
    """An error instead of an answer: HTTP code, text (without text it is not JSON), headers."""

    def __init__(self, code, text="", **headers):
        super().__init__(text)
        self.code, self.text, self.headers = code, text, headers


class FakeKaggle:
    """The server's state, the requests that it got, and the faults that it plays out."""

    def __init__(self):
        self.lock = threading.Lock()
        self.asked, self.requests = Counter(), defaultdict(list)
        self.faults, self.after = defaultdict(list), defaultdict(list)
        """by method, one a call: a Fault, "cut", or None for a good answer; those of `after` come when the request was done"""
        self.refusals = {}
        """by method: the `error` field of its answers"""
        self.versions = None
        """notes of the data set's versions"""
        self.statuses = ["READY"]
        """of the data set, one a question; the last stays"""
        self.model = None
        """None, or the number of versions of the model's variation"""
        self.kernel, self.sessions = 0, ["COMPLETE"]
        self.failure, self.log, self.output = "", "", {}
        self.submissions = self.blobs = 0
        self.archive, self.token = b"", None
        self.server = ThreadingHTTPServer(("localhost", 0), type("Bound", (Handler,), {"kaggle": self}))
        self.url = f"http://localhost:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def answer(self, method, body):
        """The answer to one request. Raises Fault."""
        request = kind(f"{'' if method == 'IntrospectToken' else 'Api'}{method}Request").from_dict(body)
        with self.lock:
            self.asked[method] += 1
            self.requests[method].append(request)
            self._fail(self.faults[method])
            act = getattr(self, re.sub("(?<!^)(?=[A-Z])", "_", method).lower())
            refusal = self.refusals.get(method)
            done = made(f"Api{method}Response", error=refusal) if refusal else act(request)
            self._fail(self.after[method])
            return done

    def _fail(self, faults):
        if faults and (fault := faults.pop(0)):
            raise fault if isinstance(fault, Fault) else ConnectionAbortedError

    def _next(self, values):
        return values.pop(0) if len(values) > 1 else values[0]

    def introspect_token(self, request):
        return made("IntrospectTokenResponse", active=request.token == self.token, username="anna")

    def get_dataset_status(self, request):
        if self.versions is None:
            raise Fault(404, "Dataset not found")
        return made("ApiGetDatasetStatusResponse", status=DatabundleVersionStatus[self._next(self.statuses)])

    def get_dataset(self, request):
        notes = enumerate(self.versions, start=1)
        versions = [made("ApiDatasetVersion", version_number=number, version_notes=note) for number, note in notes]
        return made("ApiDataset", current_version_number=len(versions), versions=versions)

    def create_dataset(self, request):
        assert request.is_private
        self.versions = ["Initial release"]
        return made("ApiCreateDatasetResponse", status="ok")

    def create_dataset_version(self, request):
        self.versions.append(request.body.version_notes)
        return made("ApiCreateDatasetResponse", status="ok")

    def start_blob_upload(self, request):
        self.blobs += 1
        place = {"token": f"token-{self.blobs}-{request.name}", "create_url": f"{self.url}/blob/{request.name}"}
        return made("ApiStartBlobUploadResponse", **place)

    def get_model(self, request):
        if self.model is None:
            raise Fault(403, "Permission 'models.get' was denied")
        return made("ApiModel")

    def get_model_instance(self, request):
        if not self.model:
            raise Fault(404, "Not found")
        return made("ApiModelInstance", version_number=self.model)

    def create_model(self, request):
        assert request.is_private
        self.model = 0
        return made("ApiCreateModelResponse")

    def create_model_instance(self, request):
        self.model += 1
        return made("ApiCreateModelResponse")

    create_model_instance_version = create_model_instance

    def save_kernel(self, request):
        self.kernel += 1
        return made(
            "ApiSaveKernelResponse", version_number=self.kernel, url=f"https://www.kaggle.com/code/{request.slug}"
        )

    def get_kernel_session_status(self, request):
        status = KernelWorkerStatus[self._next(self.sessions)]
        return made("ApiGetKernelSessionStatusResponse", status=status, failure_message=self.failure)

    def list_kernel_session_output(self, request):
        names, at = sorted(self.output), int(request.page_token or 0)  # one file a page
        files = [
            made("ApiKernelSessionOutputFile", file_name=name, url=f"{self.url}/output/{name}")
            for name in names[at : at + 1]
        ]
        token = str(at + 1) if at + 1 < len(names) else ""
        return made("ApiListKernelSessionOutputResponse", log=self.log, files=files, next_page_token=token)

    def create_code_submission(self, request):
        self.submissions += 1
        return made("ApiCreateCodeSubmissionResponse", ref=1000 + self.submissions, message="Successfully submitted")

    def download_data_files(self, request):
        raise Fault(302, Location=f"{self.url}/archive/x.zip")


class Handler(BaseHTTPRequestHandler):
    kaggle: FakeKaggle

    def log_message(self, *words):
        pass

    def _send(self, code, data=b"", kind="application/json", **headers):
        self.send_response(code)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            answer = self.kaggle.answer(self.path.rpartition("/")[2], body)
            self._send(200, json.dumps(type(answer).to_dict(answer)).encode())
        except Fault as fault:
            text = json.dumps({"code": fault.code, "message": fault.text}).encode()
            self._send(fault.code, **({"data": text} if fault.text else {"kind": "text/html"}), **fault.headers)
        except ConnectionAbortedError:
            self.close_connection = True

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        faults = self.kaggle.faults[f"PUT {self.path.rpartition('/')[2]}"]
        self._send(faults.pop(0).code if faults else 200)

    def do_GET(self):
        place, _, name = self.path[1:].partition("/")
        self._send(
            200, self.kaggle.archive if place == "archive" else self.kaggle.output[name], "application/octet-stream"
        )
