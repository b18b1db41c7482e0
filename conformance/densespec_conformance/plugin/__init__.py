"""This package is a plugin of pytest: each case of each target is a test.

    pytest -p densespec_conformance.plugin --densespec-target my_package:BACKEND

or the same in the configuration of a project, whose own tests run along::

    [tool.pytest.ini_options]
    addopts = ["-p", "densespec_conformance.plugin"]
    densespec_target = ["my_package:BACKEND"]
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import pytest

from densespec.errors import DensespecError
from densespec_conformance.judging.expected import Reference
from densespec_conformance.plugin import hooks
from densespec_conformance.plugin.collecting import CaseItem, TargetCollector
from densespec_conformance.plugin.findings import Gatherer, attach
from densespec_conformance.plugin.jobs import Jobs
from densespec_conformance.plugin.settings import Settings, add_options, settings_of
from densespec_conformance.running.expectations import unmatched

SETTINGS = pytest.StashKey[Settings]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(hooks)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "densespec: a case of densespec's conformance suite")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse what can't be run before anything is collected, rather than skip it in silence."""
    config = session.config
    try:
        settings = config.stash[SETTINGS] = settings_of(config)
    except DensespecError as error:
        raise pytest.UsageError(str(error)) from error
    if not _is_xdist_worker(config):
        _warn_of_unmatched(settings, config)
        config.pluginmanager.register(Gatherer(settings, config))


def _is_xdist_worker(config: pytest.Config) -> bool:
    """Say whether another process gathers the reports and says which test to run next."""
    return hasattr(config, "workerinput")


def _warn_of_unmatched(settings: Settings, config: pytest.Config) -> None:
    ids = {one.subject.name: [case.id for case in one.cases] for one in settings.assignments}
    for text in unmatched(settings.known, ids):
        config.issue_config_time_warning(pytest.PytestWarning(text), stacklevel=2)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Add the cases early, so that ``-k``, ``-m`` and ``--lf`` choose among them too."""
    settings, reference = session.config.stash[SETTINGS], Reference()
    for one in settings.assignments:
        name = one.subject.name
        target: TargetCollector = TargetCollector.from_parent(
            session, name=name, nodeid=name, assignment=one, settings=settings, reference=reference
        )
        items.extend(session.genitems(target))


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, bool, bool]:
    """Let pytest run the other tests, one by one; then run the cases, several at a time."""
    if _is_xdist_worker(session.config) or session.config.option.collectonly:
        return (yield)
    everything = session.items
    cases = [item for item in everything if isinstance(item, CaseItem)]
    session.items = [item for item in everything if not isinstance(item, CaseItem)]
    try:
        done = yield
    finally:
        session.items = everything
    _run(cases, session)
    return done


def _run(cases: Sequence[CaseItem], session: pytest.Session) -> None:
    """Report each case to pytest as its result comes in."""
    jobs = Jobs(cases, session.config.stash[SETTINGS].jobs)
    try:
        for item, result in jobs:
            if result is None:
                item.ihook.pytest_densespec_case_begun(item=item)
                continue
            item.result = result
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
    finally:
        jobs.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if isinstance(item, CaseItem) and call.when == "call" and item.result is not None:
        attach(item.result, report, item.config.stash[SETTINGS])
    return report
