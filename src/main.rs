fn main() -> std::process::ExitCode {
    remora::config::prepare_environment();
    remora::cli::main()
}
