//! Logs to standard error, metrics for Prometheus.

use std::io::IsTerminal;

use metrics::{Counter, Gauge, Histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{self, LogFormat};

/// Seconds; model answers take from milliseconds (a cache) to minutes (reasoning).
const DURATION_BUCKETS: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0];

/// Sends logs to standard error. Does nothing when a subscriber is set already.
pub fn start_logs(config: &config::Log) {
    let directives = config::variable("REMORA_LOG").unwrap_or_else(|| config.filter.clone());
    let filter = EnvFilter::try_new(&directives).unwrap_or_else(|_| EnvFilter::new("warn"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    drop(started);
}

/// Every metric, registered once: recording one is an atomic operation, not a look-up.
#[derive(Clone)]
pub struct Metrics {
    pub in_flight: Gauge,
    /// By [`ApiLabel`] and class of status (index 0: no response, 1: 1xx, … 5: 5xx).
    requests: [[Counter; 6]; ApiLabel::ALL.len()],
    pub duration: Histogram,
    pub time_to_first_byte: Histogram,
    pub recorded: Counter,
    pub lost_queue_full: Counter,
    pub lost_write_failed: Counter,
    pub lost_journal_full: Counter,
    pub lost_refused: Counter,
    pub journal_damaged: Counter,
    pub checkpoints_failed: Counter,
    pub settle_failures: Counter,
    pub journal_bytes: Gauge,
    pub truncated_by_memory: Counter,
    pub ack_timeouts: Counter,
    pub capture_bytes: Gauge,
    pub stored_bytes: Gauge,
    pub damaged_bodies: Gauge,
    pub quarantined: Gauge,
    pub tunnels: Counter,
    /// From clients, to clients.
    pub tunnel_bytes: [Counter; 2],
    pub input_tokens: Gauge,
    pub output_tokens: Gauge,
    pub trajectories: Gauge,
    pub outcome_success: Gauge,
    pub outcome_failure: Gauge,
    pub outcome_partial: Gauge,
    pub outcome_unknown: Gauge,
    pub clusters_open: Gauge,
    pub clusters_closed: Gauge,
    pub nights_done: Gauge,
    pub nights_failed: Gauge,
}

/// The API of a request, as far as its path tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiLabel {
    Chat,
    Responses,
    Embeddings,
    Messages,
    Other,
}

impl ApiLabel {
    const ALL: [Self; 5] = [Self::Chat, Self::Responses, Self::Embeddings, Self::Messages, Self::Other];

    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let path = path.trim_end_matches('/');
        match path.rsplit('/').next() {
            Some("completions") => Self::Chat,
            Some("responses") => Self::Responses,
            Some("embeddings") => Self::Embeddings,
            Some("messages") => Self::Messages,
            _ => Self::Other,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
            Self::Messages => "messages",
            Self::Other => "other",
        }
    }
}

impl Metrics {
    /// Registers everything in a registry of its own, not the process's: tests run several proxies at once.
    #[must_use]
    pub fn register() -> (Self, PrometheusHandle) {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), DURATION_BUCKETS)
            .expect("the bucket list is not empty")
            .build_recorder();
        let metrics = metrics::with_local_recorder(&recorder, || {
            describe();
            let lost =
                |reason: &'static str| metrics::counter!("remora_exchanges_lost_total", "reason" => reason);
            let outcome = |label: &'static str| metrics::gauge!("remora_outcomes", "label" => label);
            let tokens = |kind: &'static str| metrics::gauge!("gen_ai_client_token_usage_total", "gen_ai_token_type" => kind);
            Self {
                in_flight: metrics::gauge!("remora_in_flight"),
                requests: ApiLabel::ALL.map(|api| {
                    ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].map(|class| {
                        metrics::counter!("remora_requests_total", "api" => api.as_str(), "status_class" => class)
                    })
                }),
                duration: metrics::histogram!("remora_request_duration_seconds"),
                time_to_first_byte: metrics::histogram!("remora_time_to_first_byte_seconds"),
                recorded: metrics::counter!("remora_exchanges_recorded_total"),
                lost_queue_full: lost("queue_full"),
                lost_write_failed: lost("write_failed"),
                lost_journal_full: lost("journal_full"),
                lost_refused: lost("refused"),
                journal_damaged: metrics::counter!("remora_journal_damaged_bytes_total"),
                checkpoints_failed: metrics::counter!("remora_checkpoints_failed_total"),
                settle_failures: metrics::counter!("remora_settle_failures_total"),
                journal_bytes: metrics::gauge!("remora_journal_bytes"),
                truncated_by_memory: metrics::counter!("remora_bodies_truncated_total", "reason" => "memory"),
                ack_timeouts: metrics::counter!("remora_ack_timeouts_total"),
                capture_bytes: metrics::gauge!("remora_capture_queue_bytes"),
                stored_bytes: metrics::gauge!("remora_stored_bytes"),
                damaged_bodies: metrics::gauge!("remora_damaged_bodies"),
                quarantined: metrics::gauge!("remora_quarantined_databases"),
                tunnels: metrics::counter!("remora_tunnels_total"),
                tunnel_bytes: ["up", "down"].map(
                    |direction| metrics::counter!("remora_tunnel_bytes_total", "direction" => direction),
                ),
                input_tokens: tokens("input"),
                output_tokens: tokens("output"),
                trajectories: metrics::gauge!("remora_trajectories"),
                outcome_success: outcome("success"),
                outcome_failure: outcome("failure"),
                outcome_partial: outcome("partial"),
                outcome_unknown: outcome("unknown"),
                clusters_open: metrics::gauge!("remora_clusters", "state" => "open"),
                clusters_closed: metrics::gauge!("remora_clusters", "state" => "closed"),
                nights_done: metrics::gauge!("remora_nights_total", "result" => "done"),
                nights_failed: metrics::gauge!("remora_nights_total", "result" => "failed"),
            }
        });
        (metrics, recorder.handle())
    }

    /// Counts a finished request; `status` none: no response came.
    pub fn count_request(&self, api: ApiLabel, status: Option<u16>) {
        let class = status.map_or(0, |s| usize::from(s / 100).min(5));
        self.requests[api as usize][class].increment(1);
    }
}

fn describe() {
    metrics::describe_gauge!("remora_in_flight", "Requests being proxied now");
    metrics::describe_counter!("remora_requests_total", "Finished requests by API and class of status");
    metrics::describe_histogram!(
        "remora_request_duration_seconds",
        "From the request's head to the response's end"
    );
    metrics::describe_histogram!(
        "remora_time_to_first_byte_seconds",
        "From the request's head to the response body's first byte"
    );
    metrics::describe_counter!("remora_exchanges_recorded_total", "Exchanges that are safe in the journal");
    metrics::describe_counter!(
        "remora_journal_damaged_bytes_total",
        "Bytes of the journal passed over because they were no entry"
    );
    metrics::describe_counter!(
        "remora_checkpoints_failed_total",
        "Exchanges under way that could not be saved for the case of a crash"
    );
    metrics::describe_counter!(
        "remora_settle_failures_total",
        "Times that journal entries could not be moved into the record; they stay and are tried again"
    );
    metrics::describe_gauge!("remora_journal_bytes", "Bytes in the journal that are not in the record yet");
    metrics::describe_counter!(
        "remora_exchanges_lost_total",
        "Exchanges that were forwarded but not recorded"
    );
    metrics::describe_counter!(
        "remora_bodies_truncated_total",
        "Bodies recorded cut because memory was short"
    );
    metrics::describe_counter!(
        "remora_ack_timeouts_total",
        "Responses whose end did not wait for their record"
    );
    metrics::describe_gauge!(
        "remora_capture_queue_bytes",
        "Memory held by exchanges in flight and waiting to be written"
    );
    metrics::describe_gauge!("remora_stored_bytes", "What recorded exchanges occupy on disk");
    metrics::describe_gauge!("remora_damaged_bodies", "Bodies that could not be read since the start");
    metrics::describe_gauge!(
        "remora_quarantined_databases",
        "Damaged databases that were moved aside and wait for somebody to look at them"
    );
    metrics::describe_counter!("remora_tunnels_total", "Blind tunnels opened in forward-proxy mode");
    metrics::describe_counter!("remora_tunnel_bytes_total", "Bytes that went through blind tunnels");
    metrics::describe_gauge!(
        "gen_ai_client_token_usage_total",
        "Tokens as upstreams reported them, over the whole record"
    );
    metrics::describe_gauge!("remora_trajectories", "Trajectories in the store");
    metrics::describe_gauge!("remora_outcomes", "Trajectories by outcome");
    metrics::describe_gauge!("remora_clusters", "Failure clusters by state");
    metrics::describe_gauge!("remora_nights_total", "Nights by result, over the whole store");
}
