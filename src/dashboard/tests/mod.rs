mod adapters;
mod sample;
mod transcripts;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusBuilder;
use proptest::prelude::*;
use tokio::sync::watch;

use super::site::LoadTranscript;
use super::{Deps, router_over};
use crate::model::Micros;
use crate::store::{DataDir, Store};
use sample::Filled;

/// A dashboard over a store of its own.
struct Desk {
    router: Router,
    ready: watch::Sender<bool>,
    store: Store,
    _dir: tempfile::TempDir,
}

struct Page {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Desk {
    fn new(transcript: LoadTranscript) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = Store::open(&DataDir::new(dir.path())).expect("an empty store");
        let (ready, is_ready) = watch::channel(true);
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let allowed_hosts = vec!["remora.test".into()];
        let deps = Deps { store: store.clone(), ready: is_ready, metrics, allowed_hosts };
        Self { router: router_over(deps, transcript), ready, store, _dir: dir }
    }

    fn filled(transcript: LoadTranscript, say: &dyn Fn(&str) -> String) -> (Self, Filled) {
        let desk = Self::new(transcript);
        let filled = sample::fill(&desk.store, Micros::now(), say);
        (desk, filled)
    }

    async fn ask(&self, request: Request<Body>) -> Page {
        let response =
            TowerToHyperService::new(self.router.clone()).call(request).await.expect("a router answers");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let body = String::from_utf8(body.to_vec()).expect("pages are UTF-8");
        Page { status: head.status, headers: head.headers, body }
    }

    async fn get(&self, path: &str) -> Page {
        self.ask(Request::get(path).header("host", "127.0.0.1:4142").body(Body::empty()).expect("a request"))
            .await
    }
}

/// Every page that shows something, and every answer of the JSON API.
fn addresses(filled: &Filled) -> Vec<String> {
    let mut all: Vec<String> =
        ["/", "/?scope=acme/support-desk", "/trajectories", "/trajectories?label=failure", "/nights"]
            .map(String::from)
            .into();
    let session = filled.trajectories.len() - 5;
    all.push(format!("/trajectories?cluster={}&session=x", filled.clusters[0]));
    all.extend(filled.clusters.iter().map(|id| format!("/clusters/{id}")));
    all.extend(filled.nights.iter().map(|id| format!("/nights/{id}")));
    all.extend(filled.trajectories[session..].iter().map(|id| format!("/trajectories/{id}")));
    all.extend(["/adapters".into(), "/adapters?scope=acme/none".into(), "/api/adapters".into()]);
    all.extend(filled.adapters.iter().map(|id| format!("/adapters/{id}")));
    all.extend(["/api/clusters".into(), "/api/trajectories".into()]);
    all.push(format!("/api/trajectories/{}", filled.trajectories[session]));
    all
}

/// A page without the values of its form fields.
fn without_values(page: &str) -> String {
    let mut parts = page.split(" value=\"");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('"').map_or("", |(_, rest)| rest))
}

const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)></title></textarea>\u{202e}{{7*7}}&lt;\u{1b}[2J";

#[tokio::test]
async fn hostile_text_is_inert_on_every_page() {
    let (desk, filled) = Desk::filled(transcripts::echo, &|_| HOSTILE.into());
    for address in addresses(&filled) {
        let page = desk.get(&address).await;
        assert_eq!(page.status, StatusCode::OK, "{address}: {}", page.body);
        if address.starts_with("/api/") {
            continue;
        }
        // A form must send back exactly what it was given.
        let body = without_values(&page.body);
        for raw in ["<script", "<img", "</textarea", "\u{202e}", "\u{1b}", "\"'>", "onerror=alert(2)>"] {
            assert!(!body.contains(raw), "{address} holds {raw:?}");
        }
        assert_eq!(page.body.matches("</title>").count(), page.body.matches("<title>").count(), "{address}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_policy() {
    let (desk, filled) = Desk::filled(transcripts::transcript, &str::to_owned);
    let others = [
        "/healthz",
        "/readyz",
        "/metrics",
        "/assets/style.css",
        "/assets/favicon.svg",
        "/none",
        "/clusters/none",
    ];
    for address in addresses(&filled).iter().map(String::as_str).chain(others) {
        let page = desk.get(address).await;
        let header =
            |name| page.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        assert!(
            header("content-security-policy").starts_with("default-src 'none'; style-src 'self';"),
            "{address}"
        );
        assert_eq!(header("x-content-type-options"), "nosniff", "{address}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{address}");
        let cached = if address.starts_with("/assets/") { "max-age=60" } else { "no-store" };
        assert_eq!(header("cache-control"), cached, "{address}");
        // What the policy forbids would silently not work.
        for forbidden in [" style=", "<style", "<script", " onclick="] {
            assert!(
                address.starts_with("/api/") || !page.body.contains(forbidden),
                "{address} has {forbidden}"
            );
        }
    }
}

#[tokio::test]
async fn pages_show_what_the_store_holds() {
    let (desk, filled) = Desk::filled(transcripts::transcript, &str::to_owned);
    let shows = async |address: &str, what: &[&str]| {
        let page = desk.get(address).await;
        for text in what {
            assert!(page.body.contains(text), "{address} lacks {text}: {}", page.body);
        }
    };
    let cluster = filled.clusters[0];
    shows(
        "/",
        &[
            "lookup_order fails",
            &format!("/clusters/{cluster}"),
            "24 of 62",
            "reopened",
            "<svg class=\"spark\"",
        ],
    )
    .await;
    shows(
        &format!("/clusters/{cluster}"),
        &["without the leading #", "21 of 23 failures kept", "skills/orders/SKILL.md", "<b>step 1</b>"],
    )
    .await;
    let refund = filled.trajectories[filled.trajectories.len() - 5];
    shows(
        &format!("/trajectories/{refund}"),
        &[
            "id=\"step-1\"",
            "not_found",
            "feedback:zendesk",
            "0.86",
            "Second time this week.",
            "47 min",
            "article id=\"message-4\" class=\"assistant failing\"",
        ],
    )
    .await;
    shows(
        &format!("/nights/{}", filled.nights[1]),
        &["Always greet", "successes do it no more often", "3f2a9c1b", "without the leading #"],
    )
    .await;
    shows(&format!("/nights/{}", filled.nights[4]), &["No space left on device"]).await;
}

#[tokio::test]
async fn filters_narrow_the_list_and_the_cursor_goes_on() {
    let (desk, filled) = Desk::filled(transcripts::transcript, &str::to_owned);
    let rows = |page: &Page| page.body.matches("class=\"row\"").count();
    let all = desk.get("/trajectories").await;
    assert_eq!(rows(&all), 50);
    let older = all
        .body
        .split("href=\"")
        .find_map(|s| s.split_once('"').filter(|(h, _)| h.contains("before=")))
        .expect("a next page")
        .0;
    let next = desk.get(&older.replace("&#38;", "&")).await;
    assert!(rows(&next) > 0 && next.body.contains("newest"));
    let first = |p: &Page| p.body.split("class=\"row\" href=\"").nth(1).map(str::to_owned);
    assert_ne!(first(&all), first(&next));
    assert_eq!(rows(&desk.get(&format!("/trajectories?cluster={}", filled.clusters[2])).await), 9);
    assert_eq!(rows(&desk.get("/trajectories?session=gone-3").await), 1);
    assert!(desk.get("/trajectories?scope=acme/nobody").await.body.contains("None that match"));
    for wrong in
        ["/trajectories?label=bad", "/trajectories?before=yesterday", "/?scope=x", "/trajectories?cluster=7"]
    {
        assert_eq!(desk.get(wrong).await.status, StatusCode::BAD_REQUEST, "{wrong}");
    }
}

#[tokio::test]
async fn an_empty_store_has_pages() {
    let desk = Desk::new(transcripts::transcript);
    for (address, says) in [
        ("/", "No trajectories yet"),
        ("/trajectories", "No trajectories yet"),
        ("/nights", "No night has run yet"),
        ("/adapters", "Nothing was trained yet"),
    ] {
        let page = desk.get(address).await;
        assert_eq!(page.status, StatusCode::OK);
        assert!(page.body.contains(says), "{address}: {}", page.body);
    }
    let clusters: serde_json::Value =
        serde_json::from_str(&desk.get("/api/clusters").await.body).expect("JSON");
    assert_eq!(clusters["clusters"], serde_json::json!([]));
}

#[tokio::test]
async fn what_is_not_there_is_said_in_the_language_of_the_address() {
    let desk = Desk::new(transcripts::transcript);
    let id = crate::model::TrajectoryId::new();
    for address in ["/x", "/clusters/1", "/nights/%3Cb%3E", &format!("/trajectories/{id}")] {
        let page = desk.get(address).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{address}");
        assert!(page.body.starts_with("<!doctype html>") && !page.body.contains("<b>"), "{}", page.body);
    }
    let page = desk.get(&format!("/api/trajectories/{id}")).await;
    assert_eq!(
        (page.status, page.headers["content-type"].as_bytes()),
        (StatusCode::NOT_FOUND, &b"application/json"[..])
    );
}

#[tokio::test]
async fn a_store_that_cannot_be_read_gives_a_page_that_says_so() {
    let (desk, filled) = Desk::filled(transcripts::transcript, &str::to_owned);
    desk.store.write("spoil", |tx| tx.execute("UPDATE cluster SET signature = '<b>'", [])).expect("spoilt");
    let page = desk.get(&format!("/clusters/{}", filled.clusters[0])).await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(
        page.body.contains("cannot list clusters") && page.headers.contains_key("content-security-policy")
    );
}

#[tokio::test]
async fn foreign_hosts_and_writing_methods_are_refused() {
    let desk = Desk::new(transcripts::transcript);
    let ask = async |method: Method, host: Option<&str>| {
        let mut request = Request::builder().method(method).uri("/");
        if let Some(host) = host {
            request = request.header("host", host);
        }
        desk.ask(request.body(Body::empty()).expect("a request")).await
    };
    assert_eq!(ask(Method::GET, Some("evil.example")).await.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(ask(Method::GET, None).await.status, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(ask(Method::GET, Some("Remora.test:80")).await.status, StatusCode::OK);
    for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
        let page = ask(method, Some("localhost")).await;
        assert_eq!(
            (page.status, page.headers["allow"].as_bytes()),
            (StatusCode::METHOD_NOT_ALLOWED, &b"GET, HEAD"[..])
        );
    }
    let head = ask(Method::HEAD, Some("localhost")).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn readiness_follows_the_process_and_liveness_does_not() {
    let desk = Desk::new(transcripts::transcript);
    assert_eq!(desk.get("/readyz").await.status, StatusCode::OK);
    desk.ready.send(false).expect("the router listens");
    assert_eq!(desk.get("/readyz").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(desk.get("/healthz").await.body.trim(), "ok");
}

#[tokio::test]
async fn a_thousand_messages_and_a_megabyte_stay_a_small_page() {
    let (desk, filled) = Desk::filled(transcripts::transcript, &str::to_owned);
    let long = filled.trajectories[filled.trajectories.len() - 3];
    let page = desk.get(&format!("/trajectories/{long}")).await;
    assert!(page.body.len() < 300_000, "{} bytes", page.body.len());
    assert!(page.body.contains("the whole text has 1.0 MB") && page.body.contains("of 1001"));
    let at_step = desk.get(&format!("/trajectories/{long}?step=300")).await;
    assert!(at_step.body.contains("id=\"step-300\""), "the page with the step is turned up");
    let json: serde_json::Value =
        serde_json::from_str(&desk.get(&format!("/api/trajectories/{long}?page=2")).await.body)
            .expect("JSON");
    assert_eq!(
        (&json["transcript"]["first_message"], &json["transcript"]["pages"]),
        (&50.into(), &21.into())
    );
}

#[tokio::test]
async fn adapters_show_what_they_changed_and_where_they_come_from() {
    let (desk, filled) = Desk::filled(transcripts::transcript, &str::to_owned);
    let list = desk.get("/adapters").await.body;
    assert_eq!(list.matches("class=\"row\"").count(), filled.adapters.len());
    for text in ["acme-support-desk", "12 %", "71 %", "+17.1 %", "SmolLM2-135M-Instruct", "adapter-rejected"]
    {
        assert!(list.contains(text), "{text} is missing: {list}");
    }
    assert_eq!(list.matches("adapter-active").count(), 1);

    let active = desk.get(&format!("/adapters/{}", filled.adapters[2])).await.body;
    for text in ["promoted", "19 points better", "passed", "5e1f0c6ad94b", "adapter-active", "rank"] {
        assert!(active.contains(text), "{text} is missing: {active}");
    }
    assert!(active.contains(&format!("/trajectories/{}", filled.trajectories[0])), "evidence is linked");
    let retired = desk.get(&format!("/adapters/{}", filled.adapters[0])).await.body;
    assert!(retired.contains("replaced") && retired.contains("adapter-retired"), "{retired}");

    let json: serde_json::Value = serde_json::from_str(&desk.get("/api/adapters").await.body).expect("JSON");
    assert_eq!(json["adapters"].as_array().map(Vec::len), Some(filled.adapters.len()));
    assert_eq!(json["aliases"][0]["name"], adapters::ALIAS);
    let none = crate::model::AdapterId::new();
    for unknown in [format!("/adapters/{none}"), "/adapters/x".to_owned()] {
        assert_eq!(desk.get(&unknown).await.status, StatusCode::NOT_FOUND, "{unknown}");
    }
}

#[tokio::test]
async fn an_adapter_that_cannot_be_read_is_named_beside_the_others() {
    let (desk, filled) = Desk::filled(transcripts::transcript, &str::to_owned);
    let lineage = desk.store.dir().adapters().join(filled.adapters[1].to_string()).join("lineage.json");
    std::fs::write(lineage, "<b>").expect("spoilt");
    let page = desk.get("/adapters").await;
    assert!(page.body.contains("Cannot be read") && page.body.contains(&filled.adapters[1].to_string()));
    assert_eq!(page.body.matches("class=\"row\"").count(), filled.adapters.len() - 1);
    std::fs::write(desk.store.dir().adapters().join("aliases.json"), "{").expect("spoilt");
    let page = desk.get("/adapters").await;
    assert_eq!(page.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(page.body.contains("aliases.json"), "{}", page.body);
}

/// The metrics that the Grafana dashboard may ask for, without the suffixes of histograms.
const METRICS: [&str; 13] = [
    "remora_requests_total",
    "remora_request_duration_seconds",
    "remora_time_to_first_byte_seconds",
    "remora_in_flight",
    "remora_exchanges_recorded_total",
    "remora_exchanges_lost_total",
    "remora_capture_queue_bytes",
    "remora_ack_timeouts_total",
    "remora_trajectories",
    "remora_outcomes",
    "remora_clusters",
    "remora_nights_total",
    "gen_ai_client_token_usage_total",
];

#[test]
fn the_grafana_dashboard_asks_for_every_metric_and_for_no_other() {
    let text = include_str!("../../../dashboards/grafana/remora.json");
    let board: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let exprs: Vec<&str> = panels
        .iter()
        .flat_map(|p| p["targets"].as_array().into_iter().flatten())
        .map(|t| t["expr"].as_str().expect("an expression"))
        .collect();
    let name = regex::Regex::new("(?:remora|gen_ai)_[a-z_]+").expect("a pattern");
    let mut asked: Vec<&str> = exprs
        .iter()
        .flat_map(|e| name.find_iter(e))
        .map(|m| m.as_str().strip_suffix("_bucket").unwrap_or(m.as_str()))
        .filter(|m| *m != "gen_ai_token_type")
        .collect();
    asked.sort_unstable();
    asked.dedup();
    let mut known = METRICS;
    known.sort_unstable();
    assert_eq!(asked, known);

    let mut ids: Vec<_> = panels.iter().map(|p| p["id"].as_u64()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    assert_eq!(board["templating"]["list"][0]["type"], "datasource");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Between two marks that travel with the text there is never a character that ends text or an attribute.
    #[test]
    fn any_text_is_escaped_wherever_it_stands(text in "(?s).{0,24}") {
        let said = format!("[MARK{text}KRAM]");
        let (desk, filled) = Desk::filled(transcripts::echo, &|_| said.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        for address in addresses(&filled).into_iter().filter(|a| !a.starts_with("/api/")) {
            let page = runtime.block_on(desk.get(&address));
            let mut seen = 0;
            for piece in page.body.split("[MARK").skip(1) {
                let Some((inner, _)) = piece.split_once("KRAM]") else { continue };
                prop_assert!(!inner.contains(['<', '>', '"', '\'']), "{address}: {inner:?}");
                seen += 1;
            }
            prop_assert!(seen > 0 || address.contains("session=") || address.contains('?'), "{address} shows nothing of it");
        }
    }
}

/// `cargo test --lib dashboard -- --ignored --nocapture to_look_at`
#[tokio::test]
#[ignore = "serves an invented support desk until it is stopped, to look at in a browser"]
async fn pages_to_look_at() {
    let (desk, filled) = Desk::filled(transcripts::transcript, &str::to_owned);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    for path in addresses(&filled) {
        println!("http://{address}{path}");
    }
    axum::serve(listener, desk.router).await.expect("serves");
}
