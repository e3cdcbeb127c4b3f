"""What a scene found and revealed: remembered by the lab for all who ask; what takes long is a job.

found = find(lab, scene)            the specimen; None while the job's progress stands on the page
shown = reveal(lab, scene)          likewise
ahead(lab, scene)                   begin what will be asked for next, and wait for nothing: this answer,
                                    and of the next scene what takes long

What is remembered comes at once, whatever waits in the line of jobs.
"""

from __future__ import annotations

from typing import cast

from quantcore.lab.lab import Lab
from quantcore.lab.memo import remembered
from ui import job_view, kept, visitors
from ui.course.scene import Missing, Reveal, Scene, Specimen

KEPT = 32  # scenes of a lab


@remembered(KEPT)
def found(lab: Lab, scene: Scene) -> Specimen | Missing:
    return scene.find(lab)


@remembered(KEPT)
def revealed(lab: Lab, scene: Scene) -> Reveal:
    """Raises: ValueError for a scene that this model has no specimen of."""
    specimen = found(lab, scene)
    if isinstance(specimen, Missing):
        raise ValueError(specimen.said)
    return scene.reveal(lab, specimen)


def is_found(lab: Lab, scene: Scene) -> bool:
    """Whether the specimen of a scene that takes long is there."""
    return lab.remembers(found, scene)


def find(lab: Lab, scene: Scene) -> Specimen | Missing | None:
    if not scene.slow_find or is_found(lab, scene):
        return found(lab, scene)
    return cast(Specimen | Missing | None, _wait(lab, scene, "find"))


def reveal(lab: Lab, scene: Scene) -> Reveal | None:
    if lab.remembers(revealed, scene) or not (scene.slow or _runs(lab, scene)):
        return revealed(lab, scene)
    return cast(Reveal | None, _wait(lab, scene, "reveal"))


def ahead(lab: Lab, scene: Scene, quick: bool = False) -> None:
    """Begin the jobs of a scene that is about to be looked at; `quick`: also those that take a second, of a scene whose
    answer may be wanted any moment."""
    for what, slow in (("find", scene.slow_find), ("reveal", bool(scene.slow) or quick)):
        there = is_found(lab, scene)
        if what == "reveal" and there:
            there = lab.remembers(revealed, scene) or isinstance(found(lab, scene), Missing)
        if slow and not there:
            key, title, work = _job(lab, scene, what)
            kept.jobs().submit(lab.device, key, title, work, visitors.asker())


def _runs(lab: Lab, scene: Scene) -> bool:
    """Whether a job that was begun ahead is at it: its progress then stands on the page, which would hang else."""
    job = kept.jobs().get(_job(lab, scene, "reveal")[0])
    return job is not None and job.state == "running"


def _wait(lab: Lab, scene: Scene, what: str) -> object:
    key, title, work = _job(lab, scene, what)
    return job_view.result_of(lab.device, key, title, work)


def _job(lab: Lab, scene: Scene, what: str) -> tuple[str, str, job_view.Work]:
    key = f"scene|{scene.key}|{what}|{lab.id}|{lab.device}"

    def work(tell: job_view.Teller) -> object:
        tell(0.0, scene.title)
        if what == "find":
            return found(lab, scene)
        specimen = found(lab, scene)
        if isinstance(specimen, Missing):
            return specimen
        if scene.measure is not None:
            scene.measure(lab, specimen, tell)
        return revealed(lab, scene)

    return key, scene.slow or scene.title, work
