//! Against transformers: `bench/engine/golden_text.py` makes the values.

use std::collections::BTreeMap;

use serde_json::Value;

use super::*;

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/data/engine/text/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

fn ids(list: &Value) -> Vec<u32> {
    serde_json::from_value(list.clone()).unwrap()
}

/// Tokens and texts are those of the cases, and the bytes of tokens put together are the text's.
fn assert_agrees(tokenizer: &Tokenizer, cases: &Value, space_first: bool) {
    for case in cases.as_array().unwrap() {
        let (text, decoded) = (case["text"].as_str().unwrap(), case["decoded"].as_str().unwrap());
        let tokens = ids(&case["ids"]);
        assert_eq!(tokenizer.encode(text).unwrap(), tokens, "{text:?}");
        assert_eq!(tokenizer.decode(&tokens).unwrap(), decoded, "{text:?}");
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| tokenizer.bytes(*token)).copied().collect();
        let bytes = String::from_utf8(bytes).unwrap();
        assert_eq!(if space_first { bytes.strip_prefix(' ').unwrap_or("") } else { &bytes }, decoded);
    }
}

fn assert_renders(template: &ChatTemplate, chats: &Value) {
    for chat in chats.as_array().unwrap() {
        let prompt = template.render(chat["messages"].as_array().unwrap(), &chat["tools"], true);
        match chat["error"].as_str() {
            None => assert_eq!(prompt.unwrap(), chat["prompt"].as_str().unwrap()),
            Some(error) => assert!(prompt.unwrap_err().0.contains(error)),
        }
    }
}

fn vocabulary(golden: &Value) -> Vocabulary<'_> {
    Vocabulary {
        model: golden["model"].as_str().unwrap(),
        splitter: golden["splitter"].as_str().unwrap(),
        tokens: strings(&golden["tokens"]),
        kinds: serde_json::from_value(golden["kinds"].clone()).unwrap(),
        scores: serde_json::from_value(golden["scores"].clone()).unwrap(),
        merges: strings(&golden["merges"]),
        space_first: true,
        bos: None,
        eos: Some(0),
        stops: Vec::new(),
    }
}

#[test]
fn vocabularies_of_every_kind_split_texts_as_transformers_do() {
    for golden in golden("vocabularies.json").as_array().unwrap() {
        let tokenizer = Tokenizer::from_vocabulary(&vocabulary(golden)).unwrap();
        assert_eq!(tokenizer.vocabulary(), golden["tokens"].as_array().unwrap().len());
        assert_agrees(&tokenizer, &golden["cases"], golden["model"] == "llama");
    }
}

#[test]
fn other_vocabularies_and_splitters_are_refused_by_name() {
    let golden = golden("vocabularies.json");
    let refused = |change: &dyn Fn(&mut Vocabulary<'_>)| {
        let mut vocabulary = vocabulary(&golden[0]);
        change(&mut vocabulary);
        Tokenizer::from_vocabulary(&vocabulary).err().unwrap().0
    };
    let error = refused(&|v| v.model = "t5");
    assert!(error.contains("\"t5\"") && error.contains("gpt2 and llama"), "{error}");
    let error = refused(&|v| v.splitter = "chatglm-bpe");
    assert!(error.contains("\"chatglm-bpe\"") && error.contains("smollm, llama-bpe"), "{error}");
    refused(&|v| v.tokens.truncate(20));
    refused(&|v| v.tokens.clear());
}

#[test]
fn templates_render_as_transformers_render_them() {
    let special = [("bos_token", "<s>"), ("eos_token", "</s>")];
    for golden in golden("templates.json").as_array().unwrap() {
        let special: BTreeMap<_, _> = special.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        assert_renders(&ChatTemplate::new(golden["template"].as_str(), special), &golden["chats"]);
    }
}

#[test]
fn the_default_models_tokenizer_and_template_are_those_of_transformers() {
    let config = crate::config::Onnx::default();
    let path = crate::onnx::model_path(&config, "default", &crate::model::Silent).unwrap();
    let model = crate::onnx::checkpoint::Checkpoint::open(&path).unwrap();
    let golden = golden("smollm2.json");
    assert_agrees(&model.tokenizer, &golden["cases"], false);
    assert_renders(&model.template, &golden["chats"]);
    let (end, turn) = (model.tokenizer.token("<|endoftext|>"), model.tokenizer.token("<|im_end|>"));
    assert_eq!(model.tokenizer.stops(), [end.unwrap(), turn.unwrap()]);
    assert_eq!(model.tokenizer.vocabulary(), model.architecture.vocabulary);
    assert!(model.tokenizer.is_special(2) && model.tokenizer.bytes(2).is_empty());
    assert_eq!(model.tokenizer.bytes(u32::MAX), b"");
}

#[test]
fn a_tokenizer_file_is_read_with_its_added_words_and_its_ends() {
    let folder = format!("{}/tests/data/engine/text/directory", env!("CARGO_MANIFEST_DIR"));
    let json = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(format!("{folder}/{name}")).unwrap()).unwrap()
    };
    let named = named_tokens(&json("tokenizer_config.json"));
    let file = std::fs::read(format!("{folder}/tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_json(&file, &named, Vec::new()).unwrap();
    let golden = golden("directory.json");
    assert_agrees(&tokenizer, &golden["cases"], false);
    assert_eq!(tokenizer.stops(), ids(&golden["stops"]), "the end of a turn is known by its name");
    let word = tokenizer.token("<think>").unwrap();
    assert!(!tokenizer.is_special(word) && tokenizer.bytes(word) == b"<think>");
    assert_eq!(tokenizer.name(word).as_deref(), Some("<think>"));
}

#[test]
fn a_damaged_tokenizer_file_is_an_error() {
    for bytes in [&b""[..], b"{}", b"[1]", b"{\"model\": {\"type\": \"BPE\"}}"] {
        assert!(Tokenizer::from_json(bytes, &BTreeMap::new(), Vec::new()).is_err());
    }
}
