//! What an operator sees: systemd, telemetry, the doctor.
