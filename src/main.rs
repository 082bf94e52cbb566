//! Arguments and exit codes.

fn main() {
    if std::env::args().nth(1).as_deref() == Some("decode-child") {
        sam2d::imaging::decoder::child::main();
    }
}
