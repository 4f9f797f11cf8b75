//! Pieces of a body, one after the other, are the body; none is empty or too long.

use remora::store::split::{MAX, cuts, pieces};

/// The body as it is; what begins with `~` stands for its rest many times over, for only long ones are cut by content.
pub fn holds(input: &[u8]) {
    match input.split_first() {
        Some((b'~', rest)) if !rest.is_empty() => body(&rest.repeat(1 + 150_000 / rest.len())),
        _ => body(input),
    }
}

fn body(body: &[u8]) {
    let mut from = 0;
    for cut in cuts(body) {
        assert!(cut.end > from && cut.end - from <= MAX && cut.end <= body.len());
        from = cut.end;
    }
    assert_eq!(from, body.len());
    assert!(pieces(body).flatten().eq(body));
}
