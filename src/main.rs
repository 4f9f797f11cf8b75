/// Memory of an exchange is taken on one thread and given back on another, many thousand times a second.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    remora::config::prepare_environment();
    remora::cli::main()
}
