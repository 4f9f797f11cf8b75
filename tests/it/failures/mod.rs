//! What went wrong in other gateways, and the faults that a network has: each a named test.
//!
//! | | failure seen elsewhere | tested by |
//! |---|---|---|
//! | 1 | a response labelled compressed is not, or is changed | `encodings::compressed_answers_pass_untouched_and_are_read_from_a_copy` |
//! | 2 | compressed requests are refused | `encodings::compressed_requests_pass_untouched_and_are_read_from_a_copy` |
//! | 3 | bodies decoded but labelled, on errors too | `encodings::compressed_errors_pass_untouched`, `…_answers_…` |
//! | 4 | an error on a streaming request loses its body | `answers::errors_on_streaming_requests_keep_every_byte` |
//! | 5 | an upstream that dies looks like a proper end | `breaks::*`, `transparency::an_upstream_that_breaks_off_is_seen_as_a_break` |
//! | 6 | a client that left is paid for; what it got is lost | `leaving::a_client_that_leaves_stops_the_upstream_within_a_second`, `transparency::a_client_that_goes_away_*`, `tls::cancelling_one_http2_stream_*` |
//! | 7 | upstream's silence is put down to the client | `leaving::who_gave_up_first_is_recorded` |
//! | 8 | characters and events torn between chunks | `streams::a_stream_torn_at_every_byte_arrives_and_is_read_whole`, laws in `src/wire/tests/laws.rs` |
//! | 9 | tool call deltas joined wrongly | `readings::tool_calls_in_pieces_are_joined_by_choice_and_index`, `src/wire/chat/calls.rs`, `src/wire/tests/laws.rs` |
//! | 10 | missing usage becomes zero or a guess | `readings::usage_is_what_the_upstream_says_or_nothing` |
//! | 11 | failed requests are not in the log | `answers::every_failed_request_has_a_row`, `capture::an_upstream_that_*`, `tls::a_certificate_of_an_unknown_*` |
//! | 12 | the log outgrows its disk | `storage::a_limit_of_bytes_drops_the_oldest_days_and_never_today`, `storage::days_past_the_limit_are_dropped_and_their_space_comes_back`, `fail_open::a_journal_that_may_not_grow_is_full_and_its_losses_are_counted`, `src/store/payloads/tests.rs` |
//! | 13 | memory leaks with each request or chunk | `soak::memory_stays_flat_over_many_requests` |
//! | 14 | credentials in logs | `answers::credentials_in_any_slot_are_stored_nowhere`, `capture::credentials_are_stored_nowhere`, `websocket::a_key_in_the_subprotocol_*` |
//! | 15 | streams are held back | `streams::pings_and_slow_first_tokens_pass_at_once`, `transparency::a_stream_reaches_the_client_piece_by_piece` |
//! | 16 | 40 ms of Nagle and delayed acknowledgements | `streams::small_pieces_do_not_wait_for_acknowledgements` |
//! | 17 | a request dies on a stale pooled connection | `pool::a_pool_of_connections_that_the_upstream_closed_costs_no_request`, `pool::an_upstream_that_closes_after_each_answer_costs_no_request`, `pool::a_post_of_which_the_upstream_may_have_seen_something_is_never_sent_again` |
//! | 18 | unknown fields are dropped, duplicates folded | `answers::odd_json_passes_byte_by_byte` |
//! | 19 | a huge event before an immediate close is cut | `streams::a_huge_event_before_an_immediate_close_arrives_whole` |
//! | 20 | the database is down and so is the proxy | `fail_open::while_only_the_database_fails_nothing_is_lost`, `fail_open::a_database_that_another_process_locks_for_long_costs_nothing`, `capture::*database*`, `storage::a_damaged_database_is_moved_aside_at_the_start_and_recording_goes_on`, `faults::*` |
//! | 21 | audio of a whole session is held | `soak::memory_stays_flat_over_a_long_websocket` |
//! | 22 | a large log slows requests | `soak::a_large_record_does_not_slow_requests` |
//!
//! | fault | tested by |
//! |---|---|
//! | half-close both ways, 1xx, trailers, 204, 304, HEAD, chunk extensions, 100 MB, early answers | `protocols::*` |
//! | reset before the head, in it, in a chunk, after the last | `breaks::*` |
//! | an upstream that speaks no HTTP | `breaks::what_is_no_http_is_a_502_and_a_row` |
//! | a clock that jumps back | `readings::a_clock_that_jumps_back_gives_no_negative_times` |
//! | names with several addresses | `answers::an_address_that_is_down_is_passed_over_for_the_next` |
//! | a disk that is full, fails, is slow or writes short | `fail_open::*` |
//! | kill -9 | `kill::*` |
//! | loss of power | `power::*` |
//! | the end, with requests under way | `lifecycle::*` |
//! | restarts and takeovers under load | `restart::*` |
//! | unknown authority | `tls::a_certificate_of_an_unknown_authority_*` |
//! | clients without the right certificate, stalled handshakes | `front_tls::clients_without_a_certificate_are_turned_away_where_one_is_demanded`, `front_tls::a_client_that_stalls_its_handshake_is_let_go` |
//! | slow clients: in the head, in the body, in reading | `limits::a_head_that_takes_too_long_*`, `limits::a_body_that_*`, `limits::*_client_that_does_not_read_its_answer_*` |
//! | heads too large, floods of HTTP/2 | `limits::a_head_too_large_*`, `limits::heads_of_8_megabytes_*`, `limits::rapid_resets_*`, `limits::a_flood_of_continuations_*` |
//! | connections without number, no file descriptors left | `limits::connections_beyond_the_limit_*`, `limits::without_file_descriptors_*`, `limits::ten_thousand_idle_connections_*` |
//! | ambiguous framing (smuggling) | `smuggling::*` |

mod answers;
mod breaks;
mod encodings;
mod leaving;
mod readings;
mod soak;
mod streams;

use std::path::Path;

/// Whether a file below holds these bytes.
pub fn holds(folder: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(folder).expect("readable").flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, needle);
        }
        std::fs::read(&path).expect("readable").windows(needle.len()).any(|w| w == needle)
    })
}

/// How large a test is: the long form is one variable away.
fn scale(variable: &str, short: usize) -> usize {
    std::env::var(variable).ok().map_or(short, |value| value.parse().expect("a number"))
}
