"""Workers in one process: the same results as one task after another, and one end for all when one fails."""

import os
from threading import Barrier, Event
from types import SimpleNamespace

import pytest

from polyalign.errors import UserError
from polyalign.translation.engines.choosing import EngineChoice
from polyalign.translation.engines.contract import Translation
from polyalign.translation.pool import Task, ThreadPool, default_workers, translate_task

# The pool is tested with engines that are made here: when they answer, fail and wait is what matters.


class Echo:
    """Says the text and the language, three texts a batch, the later ones first."""

    closed = False

    def translate(self, texts, language):
        assert not self.closed
        for end in range(len(texts), 0, -3):
            yield [(index, Translation(text=f"{texts[index]} {language}")) for index in range(max(0, end - 3), end)]

    def close(self):
        self.closed = True


class Shout(Echo):
    def translate(self, texts, language):
        for batch in super().translate(texts, language):
            yield [(index, Translation(text=found.text.upper())) for index, found in batch]


@pytest.fixture
def choice():
    """Return a function that makes a choice of an engine class; it remembers what it has opened, and for which GPU."""

    def choose(engine, *arguments):
        opened, devices = [], []

        def open_(*, device_index):
            opened.append(engine(*arguments))
            devices.append(device_index)
            return opened[-1]

        return SimpleNamespace(open=open_, opened=opened, devices=devices)

    return choose


def uneven_tasks():
    """20 tasks of 0 to 38 texts in none to three languages, of two engines."""
    languages = ["de", "fr", "zh"]
    for number in range(20):
        texts = [f"text {number} {i}" for i in range(number * 7 % 39)]
        some = languages[: number % 4]
        yield Task(number, {tag: texts[i:] for i, tag in enumerate(some)}, {tag: i % 2 for i, tag in enumerate(some)})


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_gives_the_results_of_one_task_after_another(choice, workers):
    def ignore(language, pairs):
        pass

    expected = {task.number: translate_task([Echo(), Shout()], task, ignore) for task in uneven_tasks()}
    sunk = []
    choices = [choice(Echo), choice(Shout)]
    pool = ThreadPool(choices, workers)
    found = [(task.number, results) for task, results in pool.run(uneven_tasks(), lambda *some: sunk.append(some))]
    assert sorted(number for number, _ in found) == list(range(20))
    assert dict(found) == expected
    assert expected[5]["de"]["text 5 3"].text == "text 5 3 de"
    assert expected[6]["fr"]["text 6 1"].text == "TEXT 6 1 FR"
    pairs = sorted((language, text, done.text) for language, batch in sunk for text, done in batch)
    assert pairs == sorted(
        (language, text, done.text)
        for results in expected.values()
        for language, translations in results.items()
        for text, done in translations.items()
    )
    assert [len(one.opened) for one in choices] == [workers, workers]
    assert all(engine.closed for one in choices for engine in one.opened)


def test_only_several_workers_get_a_gpu_each(choice):
    for workers, devices in ((1, [None]), (3, [0, 1, 2])):
        chosen = choice(Echo)
        assert list(ThreadPool([chosen], workers).run(iter([]), print)) == []
        assert chosen.devices == devices


def test_few_tasks_are_taken_ahead(choice):
    taken = []

    def tasks():
        for task in uneven_tasks():
            taken.append(task.number)
            yield task

    running = ThreadPool([choice(Echo), choice(Shout)], 2).run(tasks(), lambda *some: None)
    next(running)
    assert len(taken) == 3
    running.close()


class Endless(Echo):
    """Never comes to an end by itself, unless it is told to fail; the first wait for the others."""

    def __init__(self, barrier):
        self.barrier = barrier

    def translate(self, texts, language):
        if texts != ["later"]:
            self.barrier.wait(30)
        if "failing" in texts:
            raise UserError("no key")
        while not self.closed:
            yield [(0, Translation(text="again"))]


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_first_failure_ends_all_workers_and_is_raised(choice, failing):
    """Whatever the place of the task that fails: those before it are not waited for."""
    chosen = choice(Endless, Barrier(3))
    texts = ["together"] * 3 + ["later"] * 7
    texts[failing] = "failing"
    tasks = [Task(number, {"de": [text]}, {"de": 0}) for number, text in enumerate(texts)]
    with pytest.raises(UserError, match=r"^no key$"):
        list(ThreadPool([chosen], 3).run(iter(tasks), lambda *some: None))
    assert [engine.closed for engine in chosen.opened] == [True] * 3


def test_what_is_done_with_results_may_fail_too(choice):
    """A full disk is noticed by whoever takes care of a batch."""

    def sink(language, pairs):
        raise OSError("no room")

    chosen = choice(Endless, Barrier(1))
    with pytest.raises(OSError, match=r"^no room$"):
        list(ThreadPool([chosen], 2).run(iter([Task(0, {"de": ["text"]}, {"de": 0})]), sink))
    assert all(engine.closed for engine in chosen.opened)


def test_a_slow_task_does_not_hold_up_the_others(choice):
    """The first of 20 tasks ends when the last one has begun."""
    last_begun = Event()

    class Patient(Echo):
        def translate(self, texts, language):
            if texts == ["first"]:
                assert last_begun.wait(30)
            if texts == ["last"]:
                last_begun.set()
            yield from super().translate(texts, language)

    texts = ["first", *map(str, range(18)), "last"]
    tasks = (Task(number, {"de": [text]}, {"de": 0}) for number, text in enumerate(texts))
    found = [task.number for task, _ in ThreadPool([choice(Patient)], 2).run(tasks, lambda *some: None)]
    assert sorted(found) == list(range(20))


def test_who_stops_early_ends_all_workers(choice):
    chosen = choice(Echo)
    running = ThreadPool([chosen, choice(Shout)], 2).run(uneven_tasks(), lambda *some: None)
    next(running)
    running.close()
    assert [engine.closed for engine in chosen.opened] == [True, True]


def test_programs_work_one_a_core():
    choices = [EngineChoice(spec="memory:sample"), EngineChoice(spec="apertium")]
    assert default_workers(choices) == os.cpu_count()
    assert default_workers([*choices, EngineChoice(spec="ctranslate2:x")]) >= 1
