//! Rust source as far as these rules need it: what is code, and which paths it names.

/// The source with comments, strings and character literals blanked out, line breaks kept.
pub(super) fn blank(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let mut out = String::with_capacity(source.len());
    let mut i = 0;
    // copies up to `end` as blanks
    let skip = |out: &mut String, from: usize, end: usize| {
        out.extend(chars[from..end.min(chars.len())].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        end.min(chars.len())
    };
    while i < chars.len() {
        let rest = |n: usize| chars.get(i + n).copied().unwrap_or('\0');
        let in_word = i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_');
        let end = match (rest(0), rest(1)) {
            ('/', '/') => line_end(&chars, i),
            ('/', '*') => comment_end(&chars, i),
            ('"', _) => string_end(&chars, i),
            ('r', '"' | '#') | ('b' | 'c', 'r') if !in_word => raw_end(&chars, i).unwrap_or(i),
            ('\'', '\\') => string_end(&chars, i),
            ('\'', _) if rest(2) == '\'' => i + 3,
            _ => i,
        };
        if end > i {
            i = skip(&mut out, i, end);
        } else {
            out.push(chars[i]);
            i += 1;
        }
    }
    out
}

fn line_end(chars: &[char], from: usize) -> usize {
    (from..chars.len()).find(|&i| chars[i] == '\n').unwrap_or(chars.len())
}

fn comment_end(chars: &[char], from: usize) -> usize {
    let (mut depth, mut i) = (0, from);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 1),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 1),
            _ => {}
        }
        i += 1;
        if depth == 0 {
            break;
        }
    }
    i
}

/// The end of a literal with backslash escapes that begins with its quote.
fn string_end(chars: &[char], from: usize) -> usize {
    let quote = chars[from];
    let mut i = from + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The end of `r"…"`, `r#"…"#`, `br"…"`; none where no such literal begins.
fn raw_end(chars: &[char], from: usize) -> Option<usize> {
    let mut i = from + usize::from(chars[from] != 'r');
    i += 1;
    let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
    i += hashes;
    if chars.get(i) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    (i + 1..chars.len()).find(|&at| chars[at..].starts_with(&close)).map(|at| at + close.len())
}

/// Blanks out what stands behind `#[cfg(test)]`: the item up to its `;` or closing brace.
pub(super) fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut code = code.to_owned();
    while let Some(start) = code.find(MARK) {
        let (mut depth, mut end) = (0, code.len());
        for (at, c) in code[start + MARK.len()..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (c == ';' || c == '}') {
                end = start + MARK.len() + at + 1;
                break;
            }
        }
        let blanks: String = code[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        code.replace_range(start..end, &blanks);
    }
    code
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Sign(char),
    /// `::`
    Step,
}

/// Tokens with their line, from 1.
fn tokens(code: &str) -> Vec<(usize, Token)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(c) = rest.chars().next() {
            let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let (token, length) = if !word.is_empty() {
                (Token::Word(word.clone()), word.len())
            } else if rest.starts_with("::") {
                (Token::Step, 2)
            } else {
                (Token::Sign(c), c.len_utf8())
            };
            tokens.push((number + 1, token));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// All paths of the code with their lines, trees of `use` spelt out: `use a::{b, c::d}` gives `a::b` and `a::c::d`.
pub(super) fn paths(code: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        match &tokens[i].1 {
            // a method or field is no path
            Token::Word(_) if i > 0 && tokens[i - 1].1 == Token::Sign('.') => i += 1,
            Token::Word(_) => i = path(&tokens, i, &[], &mut found),
            _ => i += 1,
        }
    }
    found
}

/// Reads the path, or the tree of paths, that begins at a word; gives the index behind it.
fn path(
    tokens: &[(usize, Token)],
    from: usize,
    prefix: &[String],
    found: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let mut names = prefix.to_vec();
    let mut i = from;
    loop {
        match tokens.get(i).map(|t| &t.1) {
            Some(Token::Word(word)) => names.push(word.clone()),
            Some(Token::Sign('{')) if i > from || !prefix.is_empty() => {
                i += 1;
                while i < tokens.len() && tokens[i].1 != Token::Sign('}') {
                    i = match &tokens[i].1 {
                        Token::Word(_) => path(tokens, i, &names, found),
                        _ => i + 1,
                    };
                }
                return i + 1;
            }
            _ => break,
        }
        i += 1;
        match tokens.get(i).map(|t| &t.1) {
            Some(Token::Step) => i += 1,
            _ => break,
        }
    }
    found.push((tokens[from].0, names));
    i.max(from + 1)
}
