"""What PS3.15 A.5 demands of an audit message, told one fault after the other.

The schema is that of A.5.1.1 (RELAX NG there, a table here), the rules are those of the tables in A.5.3 for the messages that
the daemon sends. Codes and their meanings are PS3.16's, as pydicom has them.
"""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator

from pydicom.sr._concepts_dict import concepts

#: Code value → (meaning, context groups).
DCM = {code: (meaning, groups) for names in concepts["DCM"].values() for code, (meaning, groups) in names.items()}
CODED = {"csd-code": ".+", "codeSystemName": ".+", "originalText": ".+"}
#: Element → (its attributes, those of them that may be missing, its children in order with how many of each).
SCHEMA = {
    "AuditMessage": (
        {},
        set(),
        [
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, 99),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, 99),
        ],
    ),
    "EventIdentification": (
        {
            "EventActionCode": "[CRUDE]",
            "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?",
            "EventOutcomeIndicator": "0|4|8|12",
        },
        {"EventActionCode"},
        [("EventID", 1, 1), ("EventTypeCode", 0, 99), ("EventOutcomeDescription", 0, 1)],
    ),
    "ActiveParticipant": (
        {
            "UserID": ".+",
            "AlternativeUserID": ".*",
            "UserName": ".*",
            "UserIsRequestor": "true|false|0|1",
            "NetworkAccessPointID": ".+",
            "NetworkAccessPointTypeCode": "[1-5]",
        },
        {"AlternativeUserID", "UserName", "NetworkAccessPointID", "NetworkAccessPointTypeCode"},
        [("RoleIDCode", 0, 99), ("MediaIdentifier", 0, 1)],
    ),
    "AuditSourceIdentification": (
        {"AuditEnterpriseSiteID": ".+", "AuditSourceID": ".+"},
        {"AuditEnterpriseSiteID"},
        [("AuditSourceTypeCode", 0, 99)],
    ),
    "AuditSourceTypeCode": ({"csd-code": "[1-9]"}, set(), []),
    "ParticipantObjectIdentification": (
        {
            "ParticipantObjectID": ".+",
            "ParticipantObjectTypeCode": "[1-4]",
            "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
            "ParticipantObjectDataLifeCycle": "[1-9]|1[0-5]",
            "ParticipantObjectSensitivity": ".+",
        },
        {
            "ParticipantObjectTypeCode",
            "ParticipantObjectTypeCodeRole",
            "ParticipantObjectDataLifeCycle",
            "ParticipantObjectSensitivity",
        },
        [
            ("ParticipantObjectIDTypeCode", 1, 1),
            # A name or a query, and one of them must be there; the daemon has names.
            ("ParticipantObjectName", 1, 1),
            ("ParticipantObjectDetail", 0, 99),
            ("ParticipantObjectDescription", 0, 99),
        ],
    ),
    "ParticipantObjectDetail": ({"type": ".+", "value": "[A-Za-z0-9+/]*={0,2}"}, set(), []),
    "ParticipantObjectName": ({}, set(), []),
    "EventOutcomeDescription": ({}, set(), []),
    "ParticipantObjectIDTypeCode": (CODED, set(), []),
    "EventID": (CODED, set(), []),
    "EventTypeCode": (CODED, set(), []),
    "RoleIDCode": (CODED, set(), []),
}
#: Which context group a coded element's code is of.
GROUPS = {"EventID": 400, "EventTypeCode": 401, "RoleIDCode": 402}
#: RFC 3881 4.2: identifiers.
RFC_3881 = {"2": "Patient Number", "12": "URI"}


def faults(element: ET.Element) -> Iterator[str]:
    """What is wrong with an element and all within it, by the schema and the dictionaries."""
    attributes, missing, children = SCHEMA[element.tag]
    for name in attributes.keys() - element.attrib.keys() - missing:
        yield f"{element.tag} lacks {name}"
    for name, value in element.attrib.items():
        if not re.fullmatch(attributes.get(name, "(?!)"), value):
            yield f"{element.tag} {name}={value!r}"
    for (tag, least, most), count in ((c, len(element.findall(c[0]))) for c in children):
        if not least <= count <= most:
            yield f"{element.tag} has {count} {tag}"
    order = [tag for tag, _, _ in children]
    tags = [child.tag for child in element]
    if not set(tags) <= set(order):
        yield f"{element.tag} holds {tags}"
    elif tags != sorted(tags, key=order.index):
        yield f"{element.tag} has its parts in another order: {tags}"
    if attributes is CODED:
        yield from wrong_code(element)
    for child in element:
        yield from faults(child)


def wrong_code(element: ET.Element) -> Iterator[str]:
    code, system, text = (element.attrib.get(name, "") for name in CODED)
    if system == "RFC-3881" and element.tag == "ParticipantObjectIDTypeCode":
        known, groups = RFC_3881.get(code), []
    else:
        known, groups = DCM.get(code, (None, []))
    if known is None or known.casefold() != text.casefold():
        yield f"{element.tag} {code} is {known!r}, not {text!r}"
    if element.tag in GROUPS and GROUPS[element.tag] not in groups:
        yield f"{element.tag} {code} is of {groups}"


def details(message: ET.Element) -> dict[str, str]:
    found = message.iter("ParticipantObjectDetail")
    return {d.attrib["type"]: base64.b64decode(d.attrib["value"]).decode() for d in found}


def broken_rules(message: ET.Element) -> Iterator[str]:
    """What is wrong with it by the table in A.5.3 that is its own."""
    event = message.find("EventIdentification")
    number = event.find("EventID").attrib["csd-code"]
    kinds = {kind.attrib["csd-code"] for kind in event.findall("EventTypeCode")}
    action = event.attrib["EventActionCode"]
    users = message.findall("ActiveParticipant")
    objects = message.findall("ParticipantObjectIdentification")
    patients = [o for o in objects if o.attrib["ParticipantObjectTypeCode"] == "1"]
    if number == "110110":
        if action not in "CRUD" or len(patients) != 1 or patients[0].attrib["ParticipantObjectTypeCodeRole"] != "1":
            yield "a Patient Record (A.5.3.14) is created, read, updated or deleted, of one patient"
        return
    if action != "E":
        yield f"{number} is executed, not {action}"
    if number == "110100" and not kinds & {"110120", "110121"}:
        yield "Application Activity (A.5.3.1) is a start or a stop"
    if number == "110113":
        if not all(403 in DCM[kind][1] for kind in kinds) or not kinds:
            yield f"a Security Alert (A.5.3.11) is of group 403, not {kinds}"
        if not details(message).get("Alert Description"):
            yield "a Security Alert's subject has an Alert Description"
        if any(user.attrib.get("UserIsRequestor") == "true" for user in users):
            yield "a Security Alert's performers are no requestors"
    if number == "110114":
        person = [user for user in users if "NetworkAccessPointID" in user.attrib]
        if not kinds <= {"110122", "110123"} or not kinds or len(person) != 1:
            yield "User Authentication (A.5.3.12) is a login or logout of one person at a network access point"
