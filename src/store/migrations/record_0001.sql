-- What crossed the proxy. Only the recorder writes here, so that nothing else can hold its lock.
-- Times are integer microseconds UTC; ids are the 16 bytes of a UUIDv7.
CREATE TABLE exchange (
    seq               INTEGER PRIMARY KEY AUTOINCREMENT, -- order of recording; what others keep as their watermark
    id                BLOB    NOT NULL UNIQUE,
    tenant            TEXT    NOT NULL,
    app               TEXT    NOT NULL,
    user              TEXT    NOT NULL,
    connection        INTEGER NOT NULL,                  -- the client's connection: same number, same connection
    client_key        TEXT,                              -- keyed fingerprint of the credential
    method            TEXT    NOT NULL,
    target            TEXT    NOT NULL,
    upstream          TEXT    NOT NULL,
    request_headers   TEXT    NOT NULL,                  -- JSON: [[name, value], ...]
    response_headers  TEXT,
    status            INTEGER,                           -- null: no response head came
    ended             TEXT    NOT NULL,
    detail            TEXT,
    started           INTEGER NOT NULL,
    head              INTEGER,
    first_byte        INTEGER,
    finished          INTEGER NOT NULL,
    day               TEXT    NOT NULL,                  -- the payload file that holds the bodies
    request_length    INTEGER NOT NULL,
    request_sha256    BLOB    NOT NULL,
    request_truncated INTEGER NOT NULL,
    response_length   INTEGER NOT NULL,
    response_sha256   BLOB    NOT NULL,
    response_truncated INTEGER NOT NULL
) STRICT;
CREATE INDEX exchange_started ON exchange (started);
