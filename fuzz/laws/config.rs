//! Any text is settings or a list of problems, each said; settings that are printed and read again are the same.

use remora::config::{Config, ConfigError};

pub fn holds(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let config = match Config::from_yaml(text, "input", |_| None) {
        Ok(config) => config,
        Err(ConfigError::Invalid { problems, .. }) => {
            assert!(!problems.is_empty() && problems.iter().all(|p| !p.message.is_empty()));
            return;
        }
        Err(error) => panic!("no file was read: {error}"),
    };
    let printed = serde_saphyr::to_string(&config).expect("settings are plain data");
    // A default in `${NAME:-default}` may hold what looks like the beginning of another reference.
    if printed.contains("${") {
        return;
    }
    match Config::from_yaml(&printed, "printed", |_| None) {
        Ok(again) => assert_eq!(again, config, "{printed}"),
        Err(error) => panic!("{error}\n{printed}"),
    }
}
