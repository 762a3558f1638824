"""A small server in Kaggle's place: it reads requests and writes answers with kagglesdk's own types."""

import json
import threading
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kagglesdk.blobs.types import blob_api_service as blobs
from kagglesdk.competitions.types import competition_api_service as competitions
from kagglesdk.datasets.types import dataset_api_service as datasets
from kagglesdk.datasets.types.dataset_enums import DatabundleVersionStatus
from kagglesdk.kernels.types import kernels_api_service as kernels
from kagglesdk.kernels.types.kernels_enums import KernelWorkerStatus
from kagglesdk.models.types import model_api_service as models

CUT = "cut"
"""A fault: the connection ends without an answer."""


class Fault(Exception):
    """An answer that is no answer: HTTP code, text, and headers; with `said=False` nothing of it is JSON."""

    def __init__(self, code, text="", said=True, **headers):
        super().__init__(text)
        self.code, self.text, self.said, self.headers = code, text, said, headers


class FakeKaggle:
    """What it has, what it was asked, and what is to go wrong."""

    def __init__(self):
        self.lock = threading.Lock()
        self.asked = Counter()
        self.requests = defaultdict(list)
        self.faults = defaultdict(list)
        """by method: what the next calls get instead of an answer: a Fault, CUT, or None for none"""
        self.after = defaultdict(list)
        """the same, once the thing was done"""
        self.versions = None
        """notes of the data set's versions"""
        self.statuses = ["READY"]
        """of the data set, one a question; the last stays"""
        self.model = None
        """None, or the number of versions of the model's variation"""
        self.kernel = 0
        """versions pushed"""
        self.sessions = ["COMPLETE"]
        self.failure, self.log, self.error = "", "", ""
        self.invalid = {}
        self.output = {}
        self.submissions = 0
        self.refusals = {}
        """by method: the `error` field of its answers"""
        self.archive = b""
        self.blobs = 0
        self.server = ThreadingHTTPServer(("localhost", 0), type("Bound", (Handler,), {"kaggle": self}))
        self.url = f"http://localhost:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def _next(self, values):
        return values.pop(0) if len(values) > 1 else values[0]

    def answer(self, method, body):
        """The answer to one request. Raises Fault."""
        kind, act = self.METHODS[method]
        request = kind.from_dict(body)
        with self.lock:
            self.asked[method] += 1
            self.requests[method].append(request)
            self._fail(self.faults[method])
            done = act(self, request)
            self._fail(self.after[method])
            return done

    def _fail(self, faults):
        if faults and (fault := faults.pop(0)):
            raise fault if isinstance(fault, Fault) else ConnectionAbortedError

    def _refused(self, method, answer):
        answer.error = self.refusals.get(method)
        return answer

    def status(self, request):
        if self.versions is None:
            raise Fault(404, "Dataset not found")
        answer = datasets.ApiGetDatasetStatusResponse()
        answer.status = DatabundleVersionStatus[self._next(self.statuses)]
        return answer

    def dataset(self, request):
        answer = datasets.ApiDataset()
        answer.current_version_number = len(self.versions)
        for number, note in enumerate(self.versions, start=1):
            version = datasets.ApiDatasetVersion()
            version.version_number, version.version_notes = number, note
            answer.versions = [*answer.versions, version]
        return answer

    def create_dataset(self, request):
        answer = self._refused("CreateDataset", datasets.ApiCreateDatasetResponse())
        if not answer.error:
            assert request.is_private
            self.versions = ["Initial release"]
        return answer

    def create_version(self, request):
        answer = self._refused("CreateDatasetVersion", datasets.ApiCreateDatasetResponse())
        if not answer.error:
            self.versions.append(request.body.version_notes)
        return answer

    def blob(self, request):
        self.blobs += 1
        answer = blobs.ApiStartBlobUploadResponse()
        answer.token, answer.create_url = f"token-{self.blobs}-{request.name}", f"{self.url}/blob/{request.name}"
        return answer

    def get_model(self, request):
        if self.model is None:
            raise Fault(403, "Permission 'models.get' was denied")
        return models.ApiModel()

    def get_variation(self, request):
        if not self.model:
            raise Fault(404, "Not found")
        answer = models.ApiModelInstance()
        answer.version_number = self.model
        return answer

    def create_model(self, request):
        assert request.is_private
        self.model = 0
        return models.ApiCreateModelResponse()

    def create_variation(self, request):
        self.model += 1
        return models.ApiCreateModelResponse()

    def save_kernel(self, request):
        answer = kernels.ApiSaveKernelResponse()
        answer.error = self.refusals.get("SaveKernel")
        if not answer.error:
            self.kernel += 1
            answer.version_number, answer.url = self.kernel, f"https://www.kaggle.com/code/{request.slug}"
            for name, sources in self.invalid.items():
                setattr(answer, f"invalid_{name}_sources", sources)
        return answer

    def session(self, request):
        answer = kernels.ApiGetKernelSessionStatusResponse()
        answer.status = KernelWorkerStatus[self._next(self.sessions)]
        answer.failure_message = self.failure
        return answer

    def listing(self, request):
        answer = kernels.ApiListKernelSessionOutputResponse()
        answer.log = self.log
        names = sorted(self.output)
        at = int(request.page_token or 0)  # one file a page
        for name in names[at : at + 1]:
            file = kernels.ApiKernelSessionOutputFile()
            file.file_name, file.url = name, f"{self.url}/output/{name}"
            answer.files = [file]
        answer.next_page_token = str(at + 1) if at + 1 < len(names) else ""
        return answer

    def submit(self, request):
        answer = competitions.ApiCreateCodeSubmissionResponse()
        if refusal := self.refusals.get("CreateCodeSubmission"):
            answer.message = refusal
        else:
            self.submissions += 1
            answer.ref, answer.message = 1000 + self.submissions, "Successfully submitted"
        return answer

    def archive_place(self, request):
        raise Fault(302, Location=f"{self.url}/archive/x.zip")

    METHODS = {  # noqa: RUF012
        "GetDatasetStatus": (datasets.ApiGetDatasetStatusRequest, status),
        "GetDataset": (datasets.ApiGetDatasetRequest, dataset),
        "CreateDataset": (datasets.ApiCreateDatasetRequest, create_dataset),
        "CreateDatasetVersion": (datasets.ApiCreateDatasetVersionRequest, create_version),
        "StartBlobUpload": (blobs.ApiStartBlobUploadRequest, blob),
        "GetModel": (models.ApiGetModelRequest, get_model),
        "GetModelInstance": (models.ApiGetModelInstanceRequest, get_variation),
        "CreateModel": (models.ApiCreateModelRequest, create_model),
        "CreateModelInstance": (models.ApiCreateModelInstanceRequest, create_variation),
        "CreateModelInstanceVersion": (models.ApiCreateModelInstanceVersionRequest, create_variation),
        "SaveKernel": (kernels.ApiSaveKernelRequest, save_kernel),
        "GetKernelSessionStatus": (kernels.ApiGetKernelSessionStatusRequest, session),
        "ListKernelSessionOutput": (kernels.ApiListKernelSessionOutputRequest, listing),
        "CreateCodeSubmission": (competitions.ApiCreateCodeSubmissionRequest, submit),
        "DownloadDataFiles": (competitions.ApiDownloadDataFilesRequest, archive_place),
    }


class Handler(BaseHTTPRequestHandler):
    kaggle: FakeKaggle

    def log_message(self, *words):
        pass

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, code, data=b"", kind="application/json", **headers):
        self.send_response(code)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        body = json.loads(self._body())
        try:
            answer = self.kaggle.answer(self.path.rpartition("/")[2], body)
            self._send(200, json.dumps(type(answer).to_dict(answer)).encode())
        except Fault as fault:
            said = (
                json.dumps({"code": fault.code, "message": fault.text}).encode() if fault.text and fault.said else b""
            )
            self._send(fault.code, said, "application/json" if said else "text/html", **fault.headers)
        except ConnectionAbortedError:
            self.close_connection = True

    def do_PUT(self):
        self._body()
        method = f"PUT {self.path.rpartition('/')[2]}"
        with self.kaggle.lock:
            self.kaggle.asked[method] += 1
            fault = self.kaggle.faults[method].pop(0) if self.kaggle.faults[method] else None
        self._send(fault.code if fault else 200)

    def do_GET(self):
        kind, _, name = self.path[1:].partition("/")
        data = self.kaggle.archive if kind == "archive" else self.kaggle.output[name]
        self._send(200, data, "application/octet-stream")
