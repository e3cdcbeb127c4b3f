"""A model whose weights stay in their files: built without memory, filled one decoder block at a time.

    streamed = StreamedModel("some/folder", "cpu")
    with streamed.block("model.layers.3") as block: ...      # its weights are on the device here, and only here

Files are memory-mapped and opened for one tensor at a time: a tensor that needs another type or device is copied and
its pages go at once; one that needs neither is the mapped file itself. What lies outside of the blocks (embeddings,
final norm, head) is loaded once and stays: `around` is the model with a `BlockPlace` where each block was.

Types are `load_model`'s: float32 on the CPU, the model's own on a GPU. Experts are apart (`experts`), as most files
keep them; where a file keeps them in one tensor, each is read as a slice of it. Limit: what transformers puts together
otherwise when it loads a model cannot be streamed.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from quantcore.model.config_file import context_of
from quantcore.model.experts import take_apart
from quantcore.model.finite import beside_linears, require_finite
from quantcore.model.hub import fetch
from quantcore.model.integrity import examine
from quantcore.model.linears import block_names
from quantcore.model.loading import generation_config
from quantcore.model.locate import Progress, quiet
from quantcore.model.making import making
from quantcore.model.memory import give_back
from quantcore.model.places import with_places
from quantcore.model.sentences import named, quoted
from quantcore.model.skeleton import build, most_parameters
from quantcore.model.staging import made_on, to_device
from quantcore.model.tokenizer import require_ids, tokenizer_of

READERS = 4  # threads that read the next block
FLOATS = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class StreamedModel:
    """A causal language model on the meta device, and the files that its tensors are read from.

    id, path    the source as given, and its folder; `revision` pins its contents, as a LoadedModel's
    skeleton    the model: parameters on the meta device, except inside `block`; buffers that no file holds are real
    blocks      names of the decoder blocks in order
    notices     as a LoadedModel's; none, since what was quantized before cannot be streamed"""

    notices: tuple[str, ...] = ()

    def __init__(self, source: str, device: str | None = None, progress: Progress = quiet) -> None:
        """`progress` is told of a download. Raises: ValueError, in one sentence, for what `load_model` refuses (memory
        aside), for a GGUF file, and for files that lack a tensor of the model or hold it in another shape."""
        place = fetch(source, progress, to_load=False)
        if place.gguf:
            raise ValueError(
                f"{named(source)} is a GGUF file and only safetensors can be streamed; load it with load_model"
            )
        found = examine(source, place.folder)
        self.id, self.path, self._place = source, place.folder, place
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.tokenizer = tokenizer_of(source, place)
        self._stored = found.stored
        self.skeleton: Any = found.skeleton
        if self.device.type != "cpu":
            self.skeleton = build(source, self.path, most_parameters(found.stored), dtype=found.dtype)
            take_apart(self.skeleton)
        if (writes := generation_config(source, self.path)) is not None:
            self.skeleton.generation_config = writes
        _complete(self.skeleton, self.device)
        self.blocks = block_names(self.skeleton)
        self._cuts = {name: cut for name, (_, cut) in found.slices.items()}
        self._stored_as = self._names_in_files({name: file for name, (file, _) in found.slices.items()} | found.names)
        require_ids(self.tokenizer, self.skeleton.get_input_embeddings().num_embeddings)
        blocks = tuple(f"{name}." for name in self.blocks)
        asked = (name for name, one in beside_linears(self.skeleton) if one.ndim == 1 or not name.startswith(blocks))
        require_finite(source, ((name, self.read(name, torch.device("cpu"))) for name in asked))

    @property
    def context(self) -> int | None:
        """The longest window that the model was made for, in tokens; None where it has no such limit."""
        return context_of(self.skeleton.config)

    @property
    def folder(self) -> Path | None:
        return self.path

    @property
    def revision(self) -> str:
        return self._place.revision

    @cached_property
    def around(self) -> Any:
        """The model with a `BlockPlace` where each block was, all else on the device; tied tensors stay tied."""
        made = with_places(self.skeleton, self.blocks)
        slots = _slots(made)
        with ThreadPoolExecutor(READERS, "weights") as readers:
            self._fill(slots, self._coming(readers, slots))
        return made

    def in_turn(self) -> Generator[tuple[str, nn.Module], None, None]:
        """Each block with its weights on the device while it has its turn. On a GPU the next block's are read
        meanwhile, so that two are there."""
        with ThreadPoolExecutor(READERS, "weights") as readers:

            def slots(place: int) -> Iterable[str]:
                blocks = self.blocks[place : place + 1]
                return (slot for one in blocks for slot in _slots(self.skeleton.get_submodule(one), one))

            here = self._coming(readers, slots(0))
            for place, name in enumerate(self.blocks):
                with self.block(name, here) as block:
                    here = self._coming(readers, slots(place + 1))
                    yield name, block

    @contextmanager
    def block(self, name: str, coming: Mapping[str, Future[Tensor]] | None = None) -> Iterator[nn.Module]:
        """One decoder block with its weights on the device; they are let go at the end. `coming`: those that are being
        read already."""
        module: nn.Module = self.skeleton.get_submodule(name)
        slots = _slots(module, name)
        empty = {full: _tensor_at(slot) for full, slot in slots.items()}
        try:
            self._fill(slots, coming or {})
            yield module
        finally:
            for full, slot in slots.items():
                _put(slot, empty[full])
            if self.device.type == "cpu":
                give_back()

    def _coming(self, readers: ThreadPoolExecutor, names: Iterable[str]) -> dict[str, Future[Tensor]]:
        """Tensors that are being read; none for the CPU, which maps the files."""
        if self.device.type == "cpu":
            return {}
        return {name: readers.submit(self._read_beside, name) for name in names}

    def _read_beside(self, name: str) -> Tensor:
        """`read` on a stream of its own, so that it does not wait for what the GPU has to do before."""
        return made_on(self._beside, lambda: self.read(name))

    @cached_property
    def _beside(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def read(self, name: str, device: torch.device | None = None) -> Tensor:
        """One tensor by the model's name for it, in the model's type, on the device."""
        stored, cut = self._stored_as[name], self._cuts.get(name)
        with safe_open(self._stored[stored].file, "pt") as file:
            tensor: Tensor = (
                file.get_tensor(stored)
                if cut is None
                else cut.of(file.get_slice(stored), self._stored[stored].shape).contiguous()
            )
        return to_device(tensor, device or self.device).to(self._dtypes[name])

    def file_dtype(self, name: str) -> torch.dtype | None:
        """The float type in which its file keeps a tensor; None for other types."""
        return FLOATS.get(self._stored[self._stored_as[name]].dtype)

    def state_dict(self) -> Mapping[str, Tensor]:
        """What the loaded model's `state_dict()` would be; each tensor is read when it is asked for, on the CPU."""
        return _Lazy(self)

    @cached_property
    def _dtypes(self) -> dict[str, torch.dtype]:
        return {name: tensor.dtype for name, tensor in self.skeleton.state_dict().items()}

    def _fill(self, slots: dict[str, _Slot], coming: Mapping[str, Future[Tensor]]) -> None:
        """Put the files' tensors into the slots; slots that shared a tensor share the new one."""
        filled: dict[int, Tensor] = {}
        for name, slot in slots.items():
            old = _tensor_at(slot)
            if id(old) not in filled:
                new = coming[name].result() if name in coming else self.read(name)
                filled[id(old)] = nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new
            _put(slot, filled[id(old)])

    def _names_in_files(self, names: Mapping[str, str]) -> dict[str, str]:
        """The file's name for each tensor of the model, or for one that it is tied to."""
        slots = {name: _tensor_at(slot) for name, slot in _slots(self.skeleton).items()}
        ties: dict[int, list[str]] = {}
        for name, tensor in slots.items():
            ties.setdefault(id(tensor), []).append(name)
        found: dict[str, str] = {}
        for name, tensor in slots.items():
            stored = next((names[tied] for tied in (name, *ties[id(tensor)]) if tied in names), None)
            if stored is None:
                raise ValueError(
                    f"the files of {named(self.id)} hold {quoted(name)} in another form, which transformers puts "
                    "together when it loads it, so it cannot be streamed; load it whole with load_model"
                )
            found[name] = stored
        return found


class _Lazy(Mapping[str, Tensor]):
    def __init__(self, streamed: StreamedModel) -> None:
        self._streamed = streamed

    def __getitem__(self, name: str) -> Tensor:
        return self._streamed.read(name, torch.device("cpu"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._streamed._dtypes)

    def __len__(self) -> int:
        return len(self._streamed._dtypes)


_Slot = tuple[nn.Module, str]


def _slots(module: nn.Module, prefix: str = "") -> dict[str, _Slot]:
    """Where a module keeps the tensors that a checkpoint stores, by full name; a tied tensor has several."""
    found: dict[str, _Slot] = {}
    for name, part in module.named_modules():
        buffers = [key for key in part._buffers if key not in part._non_persistent_buffers_set]
        for key in (*part._parameters, *buffers):
            if getattr(part, key) is not None:
                found[".".join(filter(None, (prefix, name, key)))] = (part, key)
    return found


def _tensor_at(slot: _Slot) -> Tensor:
    tensor: Tensor = getattr(*slot)
    return tensor


def _put(slot: _Slot, tensor: Tensor) -> None:
    part, key = slot
    (part._parameters if key in part._parameters else part._buffers)[key] = tensor  # type: ignore[assignment]


def _complete(model: Any, device: torch.device) -> None:
    """Give the model the buffers that no file holds."""
    with making():
        _complete_part(model, model, device)
    model.eval().requires_grad_(False)


def _complete_part(part: nn.Module, maker: Any, device: torch.device) -> None:
    """maker: the nearest model of transformers' around a part, or itself: a tower for pictures is one of its own, and
    it alone knows its buffers."""
    maker = part if hasattr(part, "_init_weights") else maker
    _compute_buffers(maker, part, device)
    for inner in part.children():
        _complete_part(inner, maker, device)


def _compute_buffers(model: Any, part: nn.Module, device: torch.device) -> None:
    """Make real what no file holds (rotary frequencies, masks, scales): transformers computes it in `_init_weights`.

    Done twice, over zeros and over ones, since a buffer that it leaves alone would keep what was there."""
    names = [name for name in part._non_persistent_buffers_set if part._buffers[name] is not None]
    results: list[list[Tensor]] = []
    for fill in (0, 1):
        for name in names:
            part._buffers[name] = torch.full_like(part._buffers[name], fill, device=device)  # type: ignore[arg-type]
        if names:
            with torch.no_grad():
                model._init_weights(part)
        results.append([part._buffers[name].clone() for name in names])  # type: ignore[union-attr]
    for name, zero, one in zip(names, *results, strict=True):
        if not torch.equal(zero, one):
            raise ValueError(
                f"{type(part).__name__} keeps {name!r} in no file and transformers cannot compute it anew, so the "
                "model cannot be streamed; load it whole with load_model"
            )
