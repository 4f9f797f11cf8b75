-- What was made of the record: assembly, outcomes, what was learned.
-- Times are integer microseconds UTC; ids are the 16 bytes of a UUIDv7 unless said otherwise.

CREATE TABLE watermark (name TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE trajectory (
    id              BLOB    PRIMARY KEY,
    tenant          TEXT    NOT NULL,
    app             TEXT    NOT NULL,
    user            TEXT    NOT NULL,
    session_id      TEXT,
    link            TEXT    NOT NULL,
    link_confidence REAL    NOT NULL,
    started         INTEGER NOT NULL,
    ended           INTEGER NOT NULL,
    exchanges       INTEGER NOT NULL,
    model           TEXT,
    task            TEXT    NOT NULL,
    last_seq        INTEGER NOT NULL,            -- the latest exchange in it
    revision        INTEGER NOT NULL DEFAULT 1,  -- grows with every exchange and every feedback
    assessed        INTEGER NOT NULL DEFAULT 0,  -- the revision that the outcome below is of
    indexed         INTEGER NOT NULL DEFAULT 0,  -- the revision that the search index holds
    p_success       REAL,
    label           TEXT    NOT NULL DEFAULT 'unknown',
    failing_step    INTEGER,
    failing_reason  TEXT,
    cluster_id      BLOB REFERENCES cluster (id) ON DELETE SET NULL
) STRICT;
CREATE INDEX trajectory_scope ON trajectory (tenant, app, started);
CREATE INDEX trajectory_session ON trajectory (tenant, session_id, app) WHERE session_id IS NOT NULL;
CREATE INDEX trajectory_cluster ON trajectory (cluster_id) WHERE cluster_id IS NOT NULL;
CREATE INDEX trajectory_unassessed ON trajectory (last_seq) WHERE assessed < revision;
CREATE INDEX trajectory_unindexed ON trajectory (last_seq) WHERE indexed < revision;

-- One row for each exchange that was read, conversation or not.
CREATE TABLE turn (
    seq             INTEGER PRIMARY KEY,          -- exchange.seq
    exchange_id     BLOB    NOT NULL UNIQUE,
    trajectory_id   BLOB REFERENCES trajectory (id) ON DELETE CASCADE, -- null: not a model's turn
    parent_seq      INTEGER,                      -- the turn that this one continues
    link            TEXT,
    link_confidence REAL,
    api             TEXT    NOT NULL,
    model           TEXT,
    response_model  TEXT,
    response_id     TEXT,
    stream          INTEGER NOT NULL,
    finish_reason   TEXT,
    error           TEXT,
    input_tokens    INTEGER,
    output_tokens   INTEGER,
    cached_input_tokens INTEGER,
    reasoning_tokens INTEGER,
    messages        INTEGER NOT NULL,             -- length of the conversation that was sent
    partition       TEXT    NOT NULL,             -- scope and client key: prefixes are compared within it
    connection      INTEGER NOT NULL,             -- as in the exchange: a hint where prefixes are equal
    system_hash     BLOB,                         -- of the system messages, which are not in the chains
    request_chain   BLOB,                         -- chained hash of the conversation that was sent
    reply_chain     BLOB,                         -- the same with the answer; null: no answer
    continued       INTEGER NOT NULL DEFAULT 0    -- how many turns continue this one
) STRICT;
CREATE INDEX turn_trajectory ON turn (trajectory_id, seq);
CREATE INDEX turn_response ON turn (response_id) WHERE response_id IS NOT NULL;
-- in the order in which a continuation picks among equal conversations: no sorting of thousands of trials
CREATE INDEX turn_reply ON turn (reply_chain, partition, (continued > 0), seq) WHERE reply_chain IS NOT NULL;
CREATE INDEX turn_unanswered ON turn (request_chain, partition) WHERE reply_chain IS NULL;

CREATE TABLE tool_call (
    call_id   TEXT    NOT NULL,
    partition TEXT    NOT NULL,
    seq       INTEGER NOT NULL,
    PRIMARY KEY (call_id, partition, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE feedback (
    id            INTEGER PRIMARY KEY,
    trajectory_id BLOB    NOT NULL REFERENCES trajectory (id) ON DELETE CASCADE,
    exchange_id   BLOB,
    label         TEXT,
    reward        REAL,
    correction    TEXT,
    comment       TEXT,
    source        TEXT    NOT NULL,
    given         INTEGER NOT NULL
) STRICT;
CREATE INDEX feedback_trajectory ON feedback (trajectory_id);

CREATE TABLE vote (
    id            INTEGER PRIMARY KEY,
    trajectory_id BLOB    NOT NULL REFERENCES trajectory (id) ON DELETE CASCADE,
    source        TEXT    NOT NULL,
    value         REAL    NOT NULL,
    confidence    REAL    NOT NULL,
    step          INTEGER,
    evidence      TEXT    NOT NULL
) STRICT;
CREATE INDEX vote_trajectory ON vote (trajectory_id);

-- What the label model learned of each source: how often it is right.
CREATE TABLE source_accuracy (
    tenant   TEXT NOT NULL,
    app      TEXT NOT NULL,
    source   TEXT NOT NULL,
    accuracy REAL NOT NULL,
    votes    INTEGER NOT NULL,
    PRIMARY KEY (tenant, app, source)
) STRICT, WITHOUT ROWID;

CREATE TABLE cluster (
    id        BLOB    PRIMARY KEY,
    tenant    TEXT    NOT NULL,
    app       TEXT    NOT NULL,
    title     TEXT    NOT NULL,
    signature TEXT    NOT NULL,                   -- JSON of model::Signature
    state     TEXT    NOT NULL,
    size      INTEGER NOT NULL,
    exemplars TEXT    NOT NULL,                   -- JSON: trajectory ids
    centroid  BLOB    NOT NULL,                   -- little-endian f32
    radius    REAL    NOT NULL,
    features  TEXT    NOT NULL,                   -- which feature space the centroid is of
    born      INTEGER NOT NULL,
    last_seen INTEGER NOT NULL
) STRICT;
CREATE INDEX cluster_scope ON cluster (tenant, app);

CREATE TABLE lesson (
    id         TEXT    PRIMARY KEY,               -- hash of what it says and of its cluster
    tenant     TEXT    NOT NULL,
    app        TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    state      TEXT    NOT NULL,
    text       TEXT    NOT NULL,
    file       TEXT    NOT NULL,
    cluster_id BLOB REFERENCES cluster (id) ON DELETE SET NULL,
    evidence   TEXT    NOT NULL,                  -- JSON: trajectory ids
    support    TEXT    NOT NULL,
    night_id   BLOB    NOT NULL,
    updated    INTEGER NOT NULL,
    held       INTEGER NOT NULL DEFAULT 0,        -- 1: the owner changed it or took it out; nights leave it alone
    passed     INTEGER NOT NULL DEFAULT 0         -- 1: passed the gate, whether or not it was accepted
) STRICT;
CREATE INDEX lesson_scope ON lesson (tenant, app, file);
CREATE INDEX lesson_cluster ON lesson (cluster_id);

CREATE TABLE night (
    id        BLOB    PRIMARY KEY,
    tenant    TEXT    NOT NULL,
    app       TEXT    NOT NULL,
    started   INTEGER NOT NULL,
    ended     INTEGER,
    phase     TEXT    NOT NULL,
    watermark INTEGER NOT NULL,
    material  TEXT    NOT NULL DEFAULT '',        -- fingerprint of the outcomes that were read, and of the settings
    report    TEXT    NOT NULL,                   -- JSON of model::NightReport
    commit_id TEXT,
    error     TEXT,
    lease     INTEGER NOT NULL DEFAULT 0          -- until when its process may be believed alive
) STRICT;
CREATE INDEX night_started ON night (started);

CREATE TABLE embedding (
    trajectory_id BLOB    NOT NULL REFERENCES trajectory (id) ON DELETE CASCADE,
    embedder      TEXT    NOT NULL,               -- name and version: vectors of two embedders do not compare
    revision      INTEGER NOT NULL,
    vector        BLOB    NOT NULL,               -- little-endian f32
    PRIMARY KEY (trajectory_id, embedder)
) STRICT, WITHOUT ROWID;
