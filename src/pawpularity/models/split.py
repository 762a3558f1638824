"""A timm backbone as a list of blocks, so that it can be split between any two: run(run(x, 0, n), n) equals the backbone.

torch.fx traces the network's skeleton: the calls of its blocks, and what happens between them. A block (a residual block, a
transformer layer) stays timm's own module, so its dropout and BatchNorm follow training. The skeleton is traced in both modes. A
network whose skeleton does something else in training is not split, because a trace keeps what it saw.

The trace is cut at *borders* into one small module each. A border lies in front of a module with parameters, where one tensor
holds all that is known of the photo. Several tensors of one size count as one (DenseNet's feature maps so far): they are joined
by channel.
On the same batch, in float32 and evaluation mode, the split network equals timm's own output to the last bit. (Another batch
size may pick other kernels and so differ in the last digits.)

Tracing computes with fake tensors, so that ordinary Python (`if x.shape[1] > 7`) works: sizes are plain numbers, as a
network is built for one photo size. Only what depends on the batch size stays symbolic. A network that cannot be traced
is one block: it runs whole.
"""

import copy
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses import FakeTensorMode
from torch.utils.checkpoint import checkpoint

BATCH = 1009
"""Photos in a trace: a prime, so that sizes that depend on it are seen. Fake tensors take no memory."""
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
LAYERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Block:
    """One step of the backbone: a function of the features before it, and the modules whose parameters it uses."""

    name: str
    run: Callable[..., Any]
    """One tensor in, one out; several where `widths` or the next block's are several."""
    modules: tuple[nn.Module, ...]
    own: tuple[Tensor, ...] = ()
    """Parameters and buffers used outside of these modules (a ViT's class token and position table)."""
    widths: tuple[int, ...] = ()
    """Channels of the tensors before it, if they are several."""

    def parameters(self) -> list[nn.Parameter]:
        """The block's parameter tensors."""
        own = [tensor for tensor in self.own if isinstance(tensor, nn.Parameter)]
        return [*own, *(parameter for module in self.modules for parameter in module.parameters())]

    def tensors(self) -> dict[str, Tensor]:
        """Everything the block's answer depends on: parameters and buffers."""
        found = {f"own.{number}": tensor.detach() for number, tensor in enumerate(self.own)}
        for number, module in enumerate(self.modules):
            found |= {f"{number}.{name}": tensor for name, tensor in module.state_dict().items()}
        return found


class Split:
    """The blocks of a backbone built with `num_classes=0`, from photo to pooled features."""

    def __init__(self, net: nn.Module, size: int) -> None:
        """`size`: pixels a side of the photos."""
        self.net = net
        self.whole = ""
        """why the network cannot be split; empty where it is"""
        try:
            self.blocks = list(_blocks(net, size))
        except Exception as error:  # a trace runs foreign code on proxies: it may raise anything
            self.whole = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            self.blocks = [Block("its end", net, (net,))]
        order = {id(parameter): position for position, parameter in enumerate(net.parameters())}
        self.total = len(order)
        last = -1
        self._reached: list[int] = []
        """by block: parameter tensors of the network up to the last one that is used in it or before it"""
        for block in self.blocks:
            last = max([last, *(order[id(parameter)] for parameter in block.parameters())])
            self._reached.append(last + 1)

    def __len__(self) -> int:
        return len(self.blocks)

    def __call__(self, x: Tensor) -> Tensor:
        """The pooled features of photos (B, 3, H, W): every block."""
        return self.run(x)

    def run(self, features: Tensor, start: int = 0, stop: int | None = None, *, recomputed: bool = False) -> Tensor:
        """The features before block `stop` (None: the pooled ones), from those before block `start`.

        The features before block 0 are the normalised photo, (B, 3, H, W). `recomputed`: keep nothing within a block, but
        compute it again for the gradient (Chen et al. 2016).
        """
        blocks = self.blocks[start:stop]
        parts: Any = torch.split(features, list(blocks[0].widths), 1) if blocks and blocks[0].widths else features
        for block in blocks:
            taken = parts if block.widths else (parts,)
            parts = checkpoint(block.run, *taken, use_reentrant=False) if recomputed else block.run(*taken)
        return parts if isinstance(parts, Tensor) else torch.cat(parts, 1)

    def tensors(self, unfrozen: int | str) -> int | None:
        """Parameter tensors that `model.unfrozen` trains, counted from the backbone's end; None means all.

        A block of "4 blocks" holds a layer: a norm or a position table alone is none.
        """
        if isinstance(unfrozen, int) or unfrozen == "all":
            return None if unfrozen == "all" else int(unfrozen)
        whole = [at for at, block in enumerate(self.blocks) if any(map(_has_layer, block.modules))]
        return self.behind(whole[-int(unfrozen.split()[0])] if len(whole) > int(unfrozen.split()[0]) else 0)

    def behind(self, position: int) -> int:
        """Parameter tensors that can be trained while the blocks before `position` are frozen, as `model.unfrozen` counts."""
        return self.total - (self._reached[position - 1] if position else 0)

    def frozen_blocks(self, unfrozen: int | None) -> int:
        """Blocks that are wholly frozen when the last `unfrozen` parameter tensors are trained (None: all are)."""
        frozen = 0 if unfrozen is None else max(0, self.total - unfrozen)
        return sum(reached <= frozen for reached in self._reached)


def _has_layer(module: nn.Module) -> bool:
    return any(isinstance(part, LAYERS) for part in module.modules())


def _blocks(net: nn.Module, size: int) -> Iterator[Block]:
    _, in_training = _trace(net, size, training=True)
    traced, graph = _trace(net, size, training=False)
    if str(in_training) != str(graph):  # a trace keeps what the network did in its own mode
        raise ValueError("it does something else in training between its blocks")
    ends = next(node for node in graph.nodes if node.op == "output")
    result = ends.args[0]
    nodes = [node for node in graph.nodes if node is not ends and node.target is not torch._assert]
    alive, start = nodes[:1], 1
    for stop in [*_borders(traced, nodes, result), len(nodes)]:
        after = _alive(nodes, stop, result)
        yield _stretch(net, traced, nodes[start:stop], alive, after)
        alive, start = after, stop


def _trace(net: nn.Module, size: int, *, training: bool) -> tuple[nn.Module, fx.Graph]:
    """A copy of the network and its trace. What modules keep of a trace, such as tables of attention biases, stays in the copy."""
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    traced = copy.deepcopy(net, shared).train(training)
    return traced, _Tracer(traced, size).trace(traced)


class _Tracer(fx.Tracer):
    """Traces the skeleton, computing every value on the way with fake tensors."""

    proxy_buffer_attributes = True

    def __init__(self, net: nn.Module, size: int) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        device = next(net.parameters()).device
        with self.fake:
            self.photo = torch.empty(BATCH, 3, size, size, device=device)
        self.computing = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """A module is looked into if a list of blocks lies in it."""
        return not any(_lists_blocks(part) for part in m.modules())

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record the call of a module; while a value is computed, just run it."""
        return forward(*args, **kwargs) if self.computing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """Record the use of a parameter; while a value is computed, just return it."""
        return attr_val if self.computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Proxies that know their value."""
        return _Valued(node, self)

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        """Every node knows its value."""
        node = super().create_node(kind, *args, **kwargs)
        if kind != "output":
            self.computing = True
            try:
                with self.fake, torch.no_grad():
                    node.meta["value"] = self._value(node)
            finally:
                self.computing = False
        return node

    def create_proxy(self, *args: Any, **kwargs: Any) -> Any:
        """A proxy where the value depends on the photo or on the batch size, else the plain value."""
        proxy = super().create_proxy(*args, **kwargs)
        value = proxy.node.meta.get("value")
        sizes = value if isinstance(value, torch.Size) else (value,)
        plain = all(
            size is None
            or isinstance(size, bool | float | str)
            or (isinstance(size, int) and (size % BATCH or not size))
            for size in sizes
        )
        return value if plain else proxy

    def _value(self, node: fx.Node) -> Any:
        known: Any = fx.node.map_arg((node.args, node.kwargs), lambda one: one.meta["value"])
        args, kwargs = known
        if node.op == "placeholder":
            return args[0] if args else self.photo  # other arguments have defaults
        if node.op == "get_attr":
            return _found(self.root, node)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        run: Any = _found(self.root, node) if node.op == "call_module" else node.target
        return run(*args, **kwargs)


class _Valued(fx.Proxy):
    """A proxy of a known value, so that Python may look at it."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.node.meta["value"], name)
        if callable(found):
            return super().__getattr__(name)
        return self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __iter__(self) -> Iterator[Any]:
        return (operator.getitem(self, at) for at in range(len(self.node.meta["value"])))

    def __len__(self) -> int:
        return len(self.node.meta["value"])

    def __bool__(self) -> bool:
        return bool(self.node.meta["value"])


def _found(net: nn.Module, node: fx.Node) -> Any:
    """The module or tensor that a node names."""
    return operator.attrgetter(str(node.target))(net)


def _lists_blocks(module: nn.Module) -> bool:
    """Whether it has several children with parameters of one kind: two in a list, else all."""
    kinds = [type(child) for child in module.children() if next(child.parameters(), None) is not None]
    if isinstance(module, LISTS):
        return len(kinds) > len(set(kinds))
    return len(kinds) > len(set(kinds)) == 1 and not kinds[0].__module__.startswith("torch.")


def _of_photo(node: fx.Node) -> bool:
    """Whether its value holds something of the photo, not just of its size."""
    if "of_photo" not in node.meta:
        looks = node.target is getattr or (node.op == "call_method" and node.target in ("size", "dim", "numel"))
        sizes = isinstance(node.meta["value"], int | torch.Size | torch.device | torch.dtype)
        node.meta["of_photo"] = node.op == "placeholder" or (
            not looks and not sizes and any(map(_of_photo, node.all_input_nodes))
        )
    return bool(node.meta["of_photo"])


def _alive(nodes: list[fx.Node], position: int, result: fx.Node) -> list[fx.Node]:
    """The nodes before `position` of the photo that are needed behind it."""
    if position == len(nodes):
        return [result]
    later = set(nodes[position:])
    return [node for node in nodes[:position] if _of_photo(node) and (node is result or later & node.users.keys())]


def _borders(net: nn.Module, nodes: list[fx.Node], result: fx.Node) -> Iterator[int]:
    """Positions in `nodes` in front of which the network can be split."""
    previous: nn.Module | None = None
    for position, node in enumerate(nodes):
        if node.op == "placeholder" or not (_of_photo(node) and (modules := _used(net, [node]))[0] | modules[1]):
            continue
        module = _found(net, node) if node.op == "call_module" else None
        # A convolution keeps the norm that follows it.
        joined = isinstance(previous, LAYERS) and "Norm" in type(module).__name__
        if previous is not None and not joined and _one(_alive(nodes, position, result), node):
            yield position
        previous = module or net


def _one(alive: list[fx.Node], node: fx.Node) -> bool:
    """Whether `alive` are one tensor, or feature maps of one size that `node` takes together."""
    values = [one.meta["value"] for one in alive]
    if not all(isinstance(value, Tensor) and value.ndim > 1 and len(value) == BATCH for value in values):
        return False
    sizes = {(value.dtype, *value.shape[2:]) for value in values}
    return len(alive) == 1 or (len(sizes) == 1 and set(alive) <= {*node.all_input_nodes})


def _used(net: nn.Module, nodes: list[fx.Node]) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    """Modules with tensors, and tensors outside of these, that the nodes use, also for what the photo has no part in."""
    modules: dict[str, nn.Module] = {}
    own: dict[str, Tensor] = {}
    todo = list(nodes)
    for node in todo:  # it grows
        if node.op == "call_module" and (module := _found(net, node)).state_dict():
            modules[str(node.target)] = module
        if node.op == "get_attr":
            own[str(node.target)] = _found(net, node)
        todo += [one for one in node.all_input_nodes if not _of_photo(one) and one not in todo]
    return modules, own


def _stretch(
    net: nn.Module, traced: nn.Module, nodes: list[fx.Node], before: list[fx.Node], after: list[fx.Node]
) -> Block:
    """The block from the tensors `before` to the tensors `after`."""
    graph, own = fx.Graph(), [node for node in nodes if _of_photo(node)]
    known = {node: graph.placeholder(f"x{at}") for at, node in enumerate(before)}
    x = known[before[0]]
    widths = tuple(node.meta["value"].shape[1] for node in before) if len(before) > 1 else ()

    def copied(node: fx.Node) -> fx.Node:
        """`node` in the new graph; sizes and devices of what lies before the border are those of `x`."""
        if node not in known:
            value, inside = node.meta["value"], node in own
            if isinstance(value, int) and not inside:
                rows = graph.call_function(operator.getitem, (graph.call_function(getattr, (x, "shape")), 0))
                known[node] = graph.call_function(operator.mul, (rows, value // BATCH))
            elif isinstance(value, torch.device) and not inside:
                known[node] = graph.call_function(getattr, (x, "device"))
            elif _of_photo(node) and not inside:
                raise ValueError(f"{node} is needed behind a border")
            else:
                known[node] = graph.node_copy(node, copied)
        return known[node]

    for node in own:
        copied(node)
    out = tuple(known[node] for node in after)
    graph.output(out if len(out) > 1 else out[0])
    targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
    root = {target: _attribute(net, traced, target) for target in sorted(targets)}
    modules, tensors = ({name: root[name] for name in used} for used in _used(traced, own))
    inside = {id(tensor) for module in modules.values() for tensor in (*module.parameters(), *module.buffers())}
    outside = tuple(tensor for tensor in tensors.values() if id(tensor) not in inside)
    name = "stem" if before[0].op == "placeholder" else next(iter(modules), "its end")
    return Block(name, fx.GraphModule(root, graph), tuple(modules.values()), outside, widths)


def _attribute(net: nn.Module, traced: nn.Module, target: str) -> Any:
    """The network's own module or tensor; constants of the trace are kept by its copy alone."""
    try:
        return operator.attrgetter(target)(net)
    except AttributeError:
        return operator.attrgetter(target)(traced)
