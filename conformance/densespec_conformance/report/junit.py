"""JUnit's XML, for continuous integration: a suite for each target, a test for each case."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from densespec_conformance.report.record import Record

NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that no XML document may hold, such as those that colour a terminal."""


def junit(record: Record) -> str:
    """The record as a ``testsuites`` element."""
    root = ElementTree.Element("testsuites", name="densespec conformance")
    for target in record["targets"]:
        results = [one for one in record["results"] if one["target"] == target["name"]]
        root.append(_suite(target, results, record))
    _set(root, **_totals(record["results"]))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(target: Record, results: list[Record], record: Record) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite")
    stamp = record["environment"]["date"].partition("+")[0]
    _set(suite, name=target["name"], timestamp=stamp, **_totals(results))
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(target, record).items():
        _set(ElementTree.SubElement(properties, "property"), name=name, value=value)
    claims = {case["id"]: case["claim"] for case in record["cases"]}
    for result in results:
        suite.append(_case(result, claims[result["case"]]))
    return suite


def _properties(target: Record, record: Record) -> dict[str, str]:
    environment = record["environment"]
    versions = {f"version.{name}": value for name, value in environment["versions"].items()}
    facts = {"tier": record["tier"], "machine": environment["machine"], "target": target["kind"]}
    return {"python": environment["python"], **versions, **facts}


def _totals(results: list[Record]) -> dict[str, str]:
    kinds = [_kind(result) for result in results]
    return {
        "tests": str(len(results)),
        "failures": str(kinds.count("failure")),
        "errors": str(kinds.count("error")),
        "skipped": str(kinds.count("skipped")),
        "time": f"{sum(result['seconds'] for result in results):.3f}",
    }


def _kind(result: Record) -> str:
    """Differences are failures, what could not be compared is an error."""
    match result["status"]:
        case "passed":
            return ""
        case "failed" | "xpassed":
            return "failure"
        case "unsupported" | "xfailed":
            return "skipped"
        case _:
            return "error"


def _case(result: Record, claim: str) -> ElementTree.Element:
    element = ElementTree.Element("testcase")
    classname = f"{result['target']}.{result['case'].partition('/')[0]}"
    _set(element, classname=classname, name=result["case"], time=f"{result['seconds']:.3f}")
    kind = _kind(result)
    if kind:
        reason = result["expected_failure"] if result["status"] == "xfailed" else ""
        message = reason or result["message"].partition("\n")[0]
        child = ElementTree.SubElement(element, kind)
        _set(child, type=result["status"], message=message)
        child.text = _clean("\n".join(_text(result, claim)))
    return element


def _text(result: Record, claim: str) -> list[str]:
    causes = [f"diagnosis: {one['text']}" for one in result["diagnosis"]]
    return ["", f"claim: {claim}", result["message"], *causes, f"again: {result['reproduce']}", ""]


def _set(element: ElementTree.Element, **attributes: str) -> None:
    for name, value in attributes.items():
        element.set(name, _clean(value))


def _clean(text: str) -> str:
    return NOT_XML.sub("�", text)
