//! `edge`: HTTP in, NATS out.

fn main() -> std::process::ExitCode {
    edge::main()
}
