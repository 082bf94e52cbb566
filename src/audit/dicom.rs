//! A record as a DICOM audit message: XML after PS3.15 A.5, in a syslog message after RFC 5424.
//!
//! Codes are of DCM's context groups 400 to 403 (PS3.16). A segmentation is a *Patient Record* that was
//! read (A.5.3.14); no instance UID is in it, since none may leave. Participant ids are what the trail
//! has: the patient as a keyed hash, said to be one, or as unknown where the request named none, for
//! such a message must have one. `tests/python/dicom_audit.py` holds messages to the schema of A.5.1.1.

use super::record::{Kind, Record};
use std::fmt::Write as _;

/// PS3.15 A.6.1: facility 10 (security), severity 5 (notice).
const PRIORITY: u8 = 10 * 8 + 5;

/// Code value, meaning.
type Code = (&'static str, &'static str);

const PATIENT: Code = ("110110", "Patient Record");
const SECURITY: Code = ("110113", "Security Alert");

/// RFC 3881's code.
const PATIENT_NUMBER: (&str, &str, &str) = ("2", "RFC-3881", "Patient Number");

/// What a kind of record is in DICOM's words: event, type, action.
fn codes(kind: Kind) -> (Code, Option<Code>, char) {
    const ACTIVITY: Code = ("110100", "Application Activity");
    match kind {
        Kind::Segment | Kind::Embed | Kind::Preview | Kind::Mask => (PATIENT, None, 'R'),
        Kind::Refusal => (SECURITY, Some(("110132", "Use of Restricted Function")), 'E'),
        Kind::LoginFailure => (("110114", "User Authentication"), Some(("110122", "Login")), 'E'),
        Kind::Start => (ACTIVITY, Some(("110120", "Application Start")), 'E'),
        Kind::Stop => (ACTIVITY, Some(("110121", "Application Stop")), 'E'),
        Kind::Engine | Kind::Configuration => {
            (SECURITY, Some(("110131", "Software Configuration")), 'E')
        }
        Kind::Tokens => (SECURITY, Some(("110137", "User Security Attributes Changed")), 'E'),
        Kind::Certificate => (SECURITY, Some(("110129", "Security Configuration")), 'E'),
        Kind::Trail => (SECURITY, Some(("110135", "Object Security Attributes Changed")), 'E'),
    }
}

/// The whole syslog message, without the frame that TLS needs.
#[must_use]
pub fn message(record: &Record) -> String {
    let node = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = node.chars().filter(char::is_ascii_graphic).take(255).collect();
    let host = if host.is_empty() { "-".to_owned() } else { host };
    let process = std::process::id();
    // RFC 5424 6: PRI VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA BOM MSG.
    format!(
        "<{PRIORITY}>1 {} {host} sam2d {process} DICOM+RFC3881 - \u{feff}{}",
        record.time,
        xml(record, &host)
    )
}

fn xml(record: &Record, host: &str) -> String {
    let (event, kind, action) = codes(record.event);
    let code = |name: &str, (value, meaning): Code| {
        format!("<{name} csd-code=\"{value}\" codeSystemName=\"DCM\" originalText=\"{meaning}\"/>")
    };
    // 0 success, 4 minor failure, 8 serious failure.
    let outcome = match (&*record.outcome, record.event) {
        ("ok", _) => 0,
        (_, Kind::Trail) => 8,
        _ => 4,
    };
    let mut xml = String::with_capacity(1024);
    let _ = write!(
        xml,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><AuditMessage><EventIdentification EventActionCode=\"{action}\" EventDateTime=\"{}\" EventOutcomeIndicator=\"{outcome}\">{}{}<EventOutcomeDescription>{}</EventOutcomeDescription></EventIdentification>",
        record.time,
        code("EventID", event),
        kind.map(|kind| code("EventTypeCode", kind)).unwrap_or_default(),
        escaped(&record.outcome),
    );
    if record.who != "box" {
        let _ = write!(
            xml,
            "<ActiveParticipant UserID=\"{}\" UserIsRequestor=\"{}\"{}/>",
            escaped(&record.who),
            // A.5.3.11: who did what an alert is about asked for no alert.
            event != SECURITY,
            // 2: an IP address.
            record.from.as_deref().map_or_else(String::new, |from| format!(
                " NetworkAccessPointID=\"{}\" NetworkAccessPointTypeCode=\"2\"",
                escaped(from)
            )),
        );
    }
    let _ = write!(
        xml,
        "<ActiveParticipant UserID=\"sam2d@{}\" AlternativeUserID=\"{}\" UserIsRequestor=\"false\">{}</ActiveParticipant>",
        escaped(host),
        std::process::id(),
        code("RoleIDCode", ("110150", "Application")),
    );
    // 4: an application server process.
    let _ = write!(
        xml,
        "<AuditSourceIdentification AuditSourceID=\"sam2d@{}\"><AuditSourceTypeCode csd-code=\"4\"/></AuditSourceIdentification>",
        escaped(host)
    );
    let mut object = |id: &str,
                      called: &str,
                      kind: u8,
                      role: u8,
                      (value, system, meaning): (&str, &str, &str),
                      details: &[(&str, &str)]| {
        let _ = write!(
            xml,
            "<ParticipantObjectIdentification ParticipantObjectID=\"{}\" ParticipantObjectTypeCode=\"{kind}\" ParticipantObjectTypeCodeRole=\"{role}\"><ParticipantObjectIDTypeCode csd-code=\"{value}\" codeSystemName=\"{system}\" originalText=\"{meaning}\"/><ParticipantObjectName>{called}</ParticipantObjectName>",
            escaped(id)
        );
        for (name, value) in details {
            // Values are base64 by the schema.
            let value = base64_simd::STANDARD.encode_to_string(value.as_bytes());
            let _ = write!(xml, "<ParticipantObjectDetail type=\"{name}\" value=\"{value}\"/>");
        }
        xml.push_str("</ParticipantObjectIdentification>");
    };
    // 1, 1: a person, the patient.
    if let Some(patient) = &record.patient {
        let hashed = [("Pseudonym", "HMAC-SHA256 of the patient id under a secret of the box")];
        object(patient, "pseudonym", 1, 1, PATIENT_NUMBER, &hashed);
    } else if event == PATIENT {
        object("unknown", "no patient was named", 1, 1, PATIENT_NUMBER, &[]);
    }
    let mut details = vec![("seq", record.seq.to_string())];
    if event == SECURITY {
        let what = kind.map_or("", |(_, meaning)| meaning);
        details.push(("Alert Description", format!("{what}: {}", record.outcome)));
    }
    for (name, value) in
        [("image", &record.image), ("request_id", &record.request_id), ("detail", &record.detail)]
    {
        details.extend(value.clone().map(|value| (name, value)));
    }
    let details: Vec<_> = details.iter().map(|(name, value)| (*name, &**value)).collect();
    // 2, 13: a system object, a security resource; RFC 3881 code 12: URI.
    object("urn:sam2d:audit", "Security Audit Log", 2, 13, ("12", "RFC-3881", "URI"), &details);
    xml.push_str("</AuditMessage>");
    xml
}

/// As the value of an attribute, without characters that XML 1.0 does not know.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&apos;"),
            char if char.is_control() || matches!(char, '\u{fffe}' | '\u{ffff}') => {
                safe.push('\u{fffd}');
            }
            char => safe.push(char),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::Event;

    #[test]
    fn a_segmentation_is_a_patient_record_that_was_read() {
        let event = Event {
            who: "token:1f0a2b3c".to_owned(),
            from: Some("10.1.2.3".to_owned()),
            ..Event::own(Kind::Segment, "x")
        };
        let record = Record::new(7, chrono::Utc::now(), &event, Some("ab".repeat(16)));
        let message = message(&record);
        assert!(message.starts_with("<85>1 20"), "{message}");
        for part in [
            "DICOM+RFC3881",
            "csd-code=\"110110\"",
            "EventOutcomeIndicator=\"0\"",
            "UserID=\"token:1f0a2b3c\" UserIsRequestor=\"true\" NetworkAccessPointID=\"10.1.2.3\"",
            "ParticipantObjectID=\"abababababababababababababababab\"",
        ] {
            assert!(message.contains(part), "{part} in {message}");
        }
        let unnamed = xml(&Record::new(7, chrono::Utc::now(), &event, None), "box7");
        assert!(unnamed.contains("ParticipantObjectID=\"unknown\""), "{unnamed}");
        let failed =
            Event { outcome: "unauthorized".to_owned(), ..Event::own(Kind::LoginFailure, "") };
        let failed = xml(&Record::new(8, chrono::Utc::now(), &failed, None), "box7");
        assert!(failed.contains("EventOutcomeIndicator=\"4\"") && failed.contains("110122"));
    }

    #[test]
    fn nothing_breaks_out_of_an_attribute() {
        assert_eq!(
            escaped("a\"><b a='&'\n\0"),
            "a&quot;&gt;&lt;b a=&apos;&amp;&apos;\u{fffd}\u{fffd}"
        );
    }
}
