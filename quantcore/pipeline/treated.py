"""A model as its transforms leave it: the same function, in other weights; taken block by block like any other.

    model = treated(held(source), Plan.parse("W8A8,smooth=0.5"), calibration)
    for name, block in model.in_turn(): ...            norms divided, Linears multiplied, the same hidden states behind

The road, a comparison and an export take it where they would take the model. A block is transformed when its turn
comes, whether the model is in memory or in its files; kept are the channels' scales alone, and what turns inputs when
the model runs. What a transform wants to know of the activations is seen on the float model's way over the text: the
function does not change, so neither does what the next block reads.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quantcore.methods.transforms.options import Rotate
from quantcore.methods.transforms.turn import Turn
from quantcore.model.held import Held
from quantcore.model.layer_names import expert_of
from quantcore.model.linears import head_of, linear_shapes
from quantcore.model.probe import block_kind, few_tokens
from quantcore.model.turned import turn_inputs
from quantcore.model.wiring import Link, copy_of, folded, links
from quantcore.pipeline.blocks import BlockWalk
from quantcore.pipeline.calibration import Progress
from quantcore.pipeline.ranks import ranks
from quantcore.pipeline.rotation import APART, Rotation, base_of_rms, by_heads, untied
from quantcore.pipeline.scaling import Chosen, Reaches, Scaler, scaler_of
from quantcore.pipeline.turning import Turning, turned_by_folding, turns_online, with_turns
from quantcore.scheme.plan import Plan
from quantcore.scheme.scheme import Scheme

LOGITS_APART = 10.0  # of what a block may, since blocks add up


def treated(model: Held, plan: Plan, calibration: Tensor | None, reaches: Reaches | None = None) -> Held:
    """The model under the plan's transforms; itself where there are none, or where they are done already.

    calibration   (windows, T), for transforms that look at activations
    reaches       what smoothing has seen of this text before, but for its alpha under the same plan; filled if empty"""
    if not plan.transforms or (isinstance(model, Treated) and model.transforms == plan.transforms):
        return model
    return Treated(model, plan, calibration, reaches)


def skeleton_under(model: nn.Module, plan: Plan) -> nn.Module:
    """The model with the parameters that it has under the plan's transforms: rotated, its head is not tied."""
    return untied(model) if any(isinstance(one, Rotate) for one in plan.transforms) else model


def treated_tensors(model: Held, progress: Progress | None = None) -> dict[str, Tensor]:
    """The tensors of a whole model that its transforms change, by name; none of a model that is as it was."""
    if not isinstance(model, Treated):
        return {}
    found = model.tensors_around
    for done, (name, block) in enumerate(model.base.in_turn()):
        if progress:
            progress(done / len(model.blocks), f"transforming {name}")
        found |= {f"{name}.{key}": one for key, one in changed(block, model.of_block(name, block)).items()}
    return found


def turns_of(model: Held) -> dict[str, Turn]:
    """What turns inputs when the model runs, by the Linear's full name; known when all blocks have passed."""
    return model.turns if isinstance(model, Treated) else {}


def treated_model(model: Held, progress: Progress | None = None) -> nn.Module:
    """A whole model in memory as its transforms leave it, still float."""
    made = copy_of(model.skeleton, treated_tensors(model, progress))
    for name, turn in turns_of(model).items():
        turn_inputs(made.get_submodule(name), turn)
    return made


def changed(before: nn.Module, after: nn.Module) -> dict[str, Tensor]:
    """The tensors of the second module that the first has not, by name."""
    known = {id(one) for one in before.parameters()}
    return {name: one.detach() for name, one in after.named_parameters(remove_duplicate=False) if id(one) not in known}


class Treated:
    """A `Held` under transforms. `state_dict` and `file_dtype` tell of the model as it was."""

    def __init__(self, base: Held, plan: Plan, calibration: Tensor | None, reaches: Reaches | None = None) -> None:
        """Raises: ValueError for a transform that wants text where there is none."""
        self.base, self.transforms = base, plan.transforms
        if calibration is None and (needy := [str(one) for one in self.transforms if one.needs_text]):
            raise ValueError(f"{needy[0]} looks at what enters the layers, so it needs text; give calibration=")
        self._schemes = plan.schemes_of(linear_shapes(base.skeleton), head_of(base.skeleton))
        self._text = calibration
        self._rotation: Rotation | None = None
        self.skeleton: Any = base.skeleton
        if (turn := next((one for one in self.transforms if isinstance(one, Rotate)), None)) is not None:
            self._rotation = Rotation(turn, base.skeleton.get_input_embeddings().weight.shape[1], base.device)
            self.skeleton = skeleton_under(base.skeleton, plan)
        self._reaches: Reaches = [] if reaches is None else reaches
        self._scaler: Scaler | None = None
        self._turning = Turning(self.transforms, base.device) if turns_online(self.transforms) else None
        self._known: dict[str, Chosen] = {}
        self._turns: dict[str, dict[str, Turn]] = {}
        self._kinds: dict[object, list[Link]] = {}
        self._valued: dict[object, list[Link]] = {}
        self._tried: set[object] = set()

    @property
    def id(self) -> str:
        return self.base.id

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def blocks(self) -> list[str]:
        return self.base.blocks

    @cached_property
    def around(self) -> Any:
        """Raises: ValueError for a model that cannot be turned."""
        if self._rotation is None:
            return self.base.around
        made = untied(self.base.around)
        return copy_of(made, self._rotation.around(made, self.blocks))

    @property
    def revision(self) -> str:
        return self.base.revision

    @property
    def context(self) -> int | None:
        return self.base.context

    @property
    def tokenizer(self) -> Any:
        return self.base.tokenizer

    @property
    def folder(self) -> Path | None:
        return self.base.folder

    def state_dict(self) -> Mapping[str, Tensor]:
        return self.base.state_dict()

    def file_dtype(self, name: str) -> torch.dtype | None:
        return self.base.file_dtype(name)

    def in_turn(self) -> Generator[tuple[str, nn.Module], None, None]:
        for name, block in self.base.in_turn():
            yield name, self.of_block(name, block)

    def end(self) -> Any:
        """`around`, behind the last block. Raises: ValueError where the model then says something else than before."""
        if self._rotation is not None and len(self._known) == len(self.blocks):
            before, after = (
                next(iter(walk.answers(model))).logits.float()
                for walk, model in ((self._plain, self.base.around), (self._few, self.around))
            )
            apart = float((after - before).abs().max() / before.abs().max())
            if not apart <= LOGITS_APART * APART[self.around.dtype]:
                raise ValueError(
                    f"{self._rotation.transform} changes the model's logits by {apart:.2g} of their size, since what "
                    "comes behind its blocks is more than a norm and a head; leave it out"
                )
        return self.around

    @property
    def tensors_around(self) -> dict[str, Tensor]:
        """What is changed outside of the blocks, by name."""
        return {} if self._rotation is None else changed(self.base.around, self.around)

    @property
    def turns(self) -> dict[str, Turn]:
        """What turns inputs when the model runs, by the Linear's full name; of the blocks that were transformed."""
        return {f"{name}.{inside}": one for name, mine in self._turns.items() for inside, one in mine.items()}

    def of_block(self, name: str, block: nn.Module) -> nn.Module:
        """The block, whose weights are at hand, as the transforms leave it. Blocks come in order, at first.

        Raises: ValueError for one that cannot be transformed so."""
        if name == self.blocks[0] and len(self._known) < len(self.blocks):
            self._known = {}
            if len(self._reaches) < len(self.blocks):  # none, or as many as there were when someone went away
                self._reaches.clear()
            self._scaler = scaler_of(self.transforms, self._reaches)
            few = few_tokens(self.base.skeleton)
            self._few = BlockWalk(self, few)
            self._plain = self._few if self._rotation is None else BlockWalk(self.base, few)
            self._walk = None if self._text is None else BlockWalk(self, ranks().share(self._text))
        original, block = block, self._turned(block)
        if name not in self._known:
            self._known[name] = []
            if self._rotation is not None:
                self._require_turned(name, original, block)
            if self._scaler is not None and self._walk is not None and self._schemes_in(name):
                wanted = [one for one in self._links(block, self._few) if self._has_scheme(name, one)]
                self._known[name] = self._scaler.scales(block, wanted, self._schemes_in(name), self._walk)
            if self._turning is not None:
                self._turns[name] = self._turning.turns(block, self._schemes_in(name), self._folded(block), self._walk)
            if self._plain is not self._few:
                self._plain.advance(original)
            self._few.advance(block)
        for link, scales in self._known[name]:
            block = copy_of(block, folded(block, link, scales))
        return with_turns(block, self._turns[name]) if self._turns.get(name) else block

    def _folded(self, block: nn.Module) -> set[str]:
        """The Linears of a block whose inputs R1 and R2 turn."""
        if self._rotation is None:
            return set()
        kind = block_kind(block)
        return turned_by_folding(self._kinds[kind], self._valued[kind], self._rotation.width)

    def _turned(self, block: nn.Module) -> nn.Module:
        if self._rotation is None:
            return block
        found = self._links(block, self._plain)
        return copy_of(block, self._rotation.inside(block, found, self._heads(block, found), self._head_width))

    def _heads(self, block: nn.Module, found: list[Link]) -> list[Link]:
        """The links that bear R2, tried on a few tokens, once for blocks of one kind: none of an expert's, which these
        tokens may not reach."""
        assert self._rotation is not None
        width, kind = self._head_width, block_kind(block)
        if kind not in self._valued:
            said = _said(self._plain, block)
            inner = [one for one in found if not one.is_norm and not expert_of(one.source)]
            able = [one for one in inner if by_heads(one, width)]
            trials = [(one, copy_of(block, self._rotation.heads_alone(block, one, width))) for one in able]
            limit = APART[next(block.parameters()).dtype] * said.abs().max()
            self._valued[kind] = [
                one for one, trial in trials if bool((_said(self._plain, trial) - said).abs().max() <= limit)
            ]
        return self._valued[kind]

    @property
    def _head_width(self) -> int:
        """Numbers of a head, as the config says; 1, which turns nothing, where it does not."""
        config = self.base.skeleton.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        width = getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else 1)
        return int(width)

    def _require_turned(self, name: str, original: nn.Module, block: nn.Module) -> None:
        """Blocks of one kind are tried once: on a GPU it takes as long as to wait for all that was launched."""
        assert self._rotation is not None
        if (kind := block_kind(original)) in self._tried:
            return
        self._tried.add(kind)
        for link in self._kinds[kind]:
            if link.is_norm:
                base_of_rms(original.get_submodule(link.source), self._rotation.transform)
        wanted = _said(self._plain, original).float() @ self._rotation.matrix
        apart = (_said(self._few, block).float() - wanted).abs().max() / wanted.abs().max()
        dtype = next(block.parameters()).dtype
        if not bool(apart <= APART[dtype]):
            raise ValueError(
                f"{self._rotation.transform} changes what {name!r} computes (by {float(apart):.2g} of its size), since "
                "it does more with hidden states than norms and Linears do; leave it out"
            )

    def _links(self, block: nn.Module, walk: BlockWalk) -> list[Link]:
        """The links of a block before which a walk over a few tokens stands; those of one kind are looked at once."""
        if (kind := block_kind(block)) not in self._kinds:
            self._kinds[kind] = links(block, lambda module: _said(walk, module))
        return self._kinds[kind]

    def _has_scheme(self, name: str, link: Link) -> bool:
        mine = self._schemes_in(name)
        return any(reader in mine for reader in link.readers)

    def _schemes_in(self, name: str) -> dict[str, Scheme]:
        prefix = f"{name}."
        return {one.removeprefix(prefix): scheme for one, scheme in self._schemes.items() if one.startswith(prefix)}


def _said(walk: BlockWalk, block: nn.Module) -> Tensor:
    """The hidden states behind a block."""
    found: list[Tensor] = []

    def hear(_: nn.Module, __: object, out: Any) -> None:
        found.append(out[0] if isinstance(out, tuple) else out)

    hook = block.register_forward_hook(hear)
    try:
        walk.run(block)
    finally:
        hook.remove()
    return found[0]
