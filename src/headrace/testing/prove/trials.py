"""The trials: each hurts a run in one way, lets the next one recover, and tells what is not as it should be.

A trial kind is a generator: it yields what was done and the list of problems, which is empty if all held.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..powercut import cut
from .content import contents, differences
from .disks import disk_full
from .lab import OK, Ended, Lab, Outcome, Running, power_variables

Trials = Callable[[Lab, int, random.Random], Iterator[Outcome]]


@dataclass(frozen=True, slots=True)
class Kind:
    """`many` trials in a whole proof, `few` in a quick one; 0 means as many as there are."""

    name: str
    promise: str
    trials: Trials
    many: int
    few: int


def _steps(lab: Lab, most: int) -> list[tuple[str, int]]:
    """(place, n-th time) for all that a clean run reaches: the first, second and last time of each place."""
    steps = [
        (place, nth)
        for place in lab.chosen
        for nth in sorted({1, 2, lab.places[place]})
        if 0 < nth <= lab.places[place]
    ]
    if most and len(steps) > most:
        steps = sorted(steps, key=lambda step: step[1])[: max(most, len(lab.places))]
    return steps


def killed(lab: Lab, most: int, _dice: random.Random) -> Iterator[Outcome]:
    for place, nth in _steps(lab, most):
        lab.fresh()
        ended = lab.run(f"{place}=kill@{nth}")
        yield f"killed at {place}, time {nth}", _reached(ended, nth) + lab.readable() + lab.recover()


def failed(lab: Lab, most: int, _dice: random.Random) -> Iterator[Outcome]:
    for place, nth in _steps(lab, most):
        lab.fresh()
        ended = lab.run(f"{place}=error@{nth}")
        yield f"error at {place}, time {nth}", lab.judge(ended) + lab.recover()


def _reached(ended: Ended, nth: int) -> list[str]:
    """A first time must come; how often a place is reached after a kill is the run's own affair."""
    if ended.code == -signal.SIGKILL or nth > 1:
        return []
    return [f"the place was not reached: {ended}"]


def killed_at_random(lab: Lab, kills: int, dice: random.Random) -> Iterator[Outcome]:
    """Kills are uniform over a whole run; up to four in a row, then a run that is left alone."""
    done = 0
    while done < kills:
        lab.fresh()
        moments = []
        for _ in range(dice.randint(1, 4)):
            running = lab.start()
            moment = dice.uniform(0, lab.length)
            time.sleep(moment)
            running.kill()
            ended = running.end(lab.patience)
            done += 1
            moments.append(f"{moment:.3f}")
            if ended.code != -signal.SIGKILL:
                moments[-1] += " (over)"
                break
        yield f"killed after {', '.join(moments)} s of {lab.length:.3f}", lab.recover()


def two_at_once(lab: Lab, times: int, dice: random.Random) -> Iterator[Outcome]:
    """Without the lock, as on two machines; the second starts somewhere within the first one's time."""
    for _ in range(times):
        lab.fresh()
        gap = dice.choice([0.0, dice.uniform(0, lab.length / 2)])
        one = lab.start(alter=["no-lock"])
        time.sleep(gap)
        two = lab.start(alter=["no-lock"])
        ended = [one.end(lab.patience), two.end(lab.patience)]
        codes = " and ".join(str(each.code) for each in ended)
        what = f"two runs, the second {gap:.3f} s later: exit codes {codes}"
        yield what, [problem for each in ended for problem in lab.judge(each)] + lab.recover()


def paused(lab: Lab, most: int, _dice: random.Random) -> Iterator[Outcome]:
    """A run stops at a step; another one, which sees no lock, takes over; then the first one wakes up."""
    for place, nth in _steps(lab, most):
        lab.fresh()
        zombie = lab.start(f"{place}=pause@{nth}")
        if not zombie.paused(lab.patience):
            problem = [] if nth > 1 else ["the place was not reached"]
            yield f"paused at {place}, time {nth}", problem
            continue
        yield f"paused at {place}, time {nth}", _taken_over(lab, zombie)


def paused_at_random(lab: Lab, times: int, dice: random.Random) -> Iterator[Outcome]:
    done = 0
    while done < times:
        lab.fresh()
        zombie = lab.start()
        moment = dice.uniform(0, lab.length)
        time.sleep(moment)
        if not zombie.stop():
            zombie.end(lab.patience)
            continue
        done += 1
        yield f"paused after {moment:.3f} s of {lab.length:.3f}", _taken_over(lab, zombie)


def _taken_over(lab: Lab, zombie: Running) -> list[str]:
    other = lab.run(alter=["no-lock"])
    problems = lab.judge(other)
    zombie.resume()
    woken = zombie.end(lab.patience)
    problems += lab.judge(woken)
    if other.code == OK:
        problems += [f"after the paused run woke up, {problem}" for problem in lab.compare()]
    return problems + lab.recover()


def relay(lab: Lab, times: int, _dice: random.Random) -> Iterator[Outcome]:
    """Three runs hand on one epoch.

    The first is paused before its outputs; the second plans anew with more inputs and is killed; the first
    wakes up and is killed between two outputs.
    """
    late = [name for name in lab.replica.here if name not in lab.replica.first][-1:]
    for place in ("refine.planned", "sink.files")[: times or None]:
        if not lab.places[place] or place not in lab.chosen:
            continue
        lab.fresh()
        lab.replica.hold(late)
        try:
            zombie = lab.start(f"{place}=pause;sink.commit=kill", alter=["no-lock"])
            stopped = zombie.paused(lab.patience)
        finally:
            lab.replica.place(late)
        if stopped:
            lab.run("refine.planned=kill", alter=["no-lock"])
            zombie.resume()
        zombie.end(lab.patience)
        yield f"handed on at {place}, with {len(late)} new file", lab.judge(lab.run()) + lab.recover()


def wiped(lab: Lab, most: int, dice: random.Random) -> Iterator[Outcome]:
    """The working directory and the metadata database vanish or break, between runs and within one."""

    def scratch() -> None:
        shutil.rmtree(lab.lake / ".scratch", ignore_errors=True)
        for folder in (lab.lake / "gold").glob(".*"):
            shutil.rmtree(folder, ignore_errors=True)

    def catalog() -> None:
        for path in lab.lake.glob("catalog.db*"):
            path.unlink()

    def garbage() -> None:
        for path in lab.lake.glob("catalog.db*"):
            path.write_bytes(dice.randbytes(5000))

    ways: dict[str, Callable[[], None]] = {
        "metadata database deleted": catalog,
        "working directory deleted": scratch,
        "metadata database overwritten with garbage": garbage,
    }
    steps = [place for place in ("refine.computed", "land.record", "sink.commit") if lab.places[place]]
    tried = 0
    for place in steps:
        for what, wipe in ways.items():
            lab.fresh()
            lab.run(f"{place}=kill")
            wipe()
            yield f"{what} after a kill at {place}", lab.recover()
            tried += 1
            if most and tried >= most:
                return
    for what, wipe in ways.items():
        lab.fresh()
        running = lab.start("refine.computed=pause")
        if running.paused(lab.patience):
            wipe()
            running.resume()
        yield f"{what} within a run", lab.judge(running.end(lab.patience)) + lab.recover()


def power_cut(lab: Lab, most: int, dice: random.Random) -> Iterator[Outcome]:
    """At the moment of a kill, or right after success, all that was not synced is gone, or a part of it."""
    steps = [("", 0), *_steps(lab, most)]
    for place, nth in steps:
        for luck in (None, dice):
            lab.fresh()
            shadow = lab.scratch / "shadow"
            ended = lab.run(f"{place}=kill@{nth}" if place else "", ["power"], **power_variables(lab, shadow))
            after = lab.scratch / "after"
            cut(shadow, lab.lake, after, luck)
            shutil.rmtree(lab.lake)
            after.rename(lab.lake)
            kept = "nothing" if luck is None else "a part"
            what = (
                f"power cut {f'at {place}, time {nth}' if place else 'after success'}; {kept} unsynced stays"
            )
            problems = []
            if not place:
                problems = [f"acknowledged, and lost: {problem}" for problem in lab.compare()]
            elif nth == 1 and ended.code != -signal.SIGKILL:
                problems = [f"the place was not reached: {ended}"]
            yield what, problems + lab.recover()


def arrivals(lab: Lab, times: int, dice: random.Random) -> Iterator[Outcome]:
    """Files come a few at a time and in any order; what silver and quarantine hold does not tell how."""
    names = [name for name in lab.replica.inputs if name not in lab.replica.first]
    if len(names) < 2:
        return
    wanted = {name: content for name, content in lab.wanted.items() if not name.startswith("gold.")}
    for _ in range(times):
        shutil.rmtree(lab.lake, ignore_errors=True)
        lab.replica.hold(names)
        try:
            order = list(names)
            if not lab.replica.ordered:
                dice.shuffle(order)
            groups = _split(order, dice)
            codes = []
            for group in groups:
                lab.replica.place(group)
                codes.append(lab.run().code)
            found = contents(lab.project, lab.ignored)
            problems = differences({name: found[name] for name in found if name in wanted}, wanted)
            if codes[-1] != lab.code:
                problems.append(f"exit code {codes[-1]} with all files there, the clean run {lab.code}")
            yield (
                f"{len(names)} files in {len(groups)} portions{'' if lab.replica.ordered else ', shuffled'}",
                problems,
            )
        finally:
            lab.replica.place(names)


def _split(names: list[str], dice: random.Random) -> list[list[str]]:
    """One file at a time where there are few, else at most a dozen portions of any size."""
    portions = min(len(names), 12)
    cuts = sorted(dice.sample(range(1, len(names)), portions - 1))
    return [names[low:high] for low, high in zip([0, *cuts], [*cuts, len(names)], strict=True)]


KINDS = (
    Kind("kill", "killed at every step, a run leaves nothing half done", killed, 0, 20),
    Kind("error", "an error at any step loses nothing and is told", failed, 0, 14),
    Kind(
        "random kill",
        "killed at any moment, again and again, nothing is lost or doubled",
        killed_at_random,
        100,
        8,
    ),
    Kind("two at once", "two runs at once apply each row once", two_at_once, 20, 3),
    Kind("pause", "a run that was paused while another took over adds nothing", paused, 0, 6),
    Kind("random pause", "the same, paused at any moment", paused_at_random, 20, 3),
    Kind("relay", "three runs that hand on one epoch keep to its plan", relay, 0, 2),
    Kind("wipe", "working directory and metadata database can be lost", wiped, 0, 3),
    Kind("power", "what was acknowledged survives a power cut", power_cut, 0, 4),
    Kind("full", "a full disk is told, and loses nothing", disk_full, 16, 3),
    Kind("arrival", "in whatever order and portions files come, the tables are the same", arrivals, 5, 1),
)
"""In the order of a proof."""


def scaled(kind: Kind, *, quick: bool, kills: int | None) -> Kind:
    if kind.name == "random kill" and kills is not None:
        return replace(kind, many=kills, few=kills)
    return replace(kind, many=kind.few) if quick else kind
