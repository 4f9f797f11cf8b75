/// Gives what was freed back to the system. The C library keeps freed pieces of up to 32 MiB, which are most of a model's
/// matrices: hundreds of megabytes after weights were packed, held for nothing.
pub(crate) fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "there is no other way to this function of the C library")]
    // SAFETY: it may be called at any time, from any thread; it only touches memory that nobody has.
    unsafe {
        libc::malloc_trim(0);
    }
}
