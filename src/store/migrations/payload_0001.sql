-- The bodies of one day.
CREATE TABLE body (
    exchange_id BLOB    NOT NULL,
    side        INTEGER NOT NULL,                 -- 0 request, 1 response
    encoding    INTEGER NOT NULL,                 -- 0 as it is, 1 zstd
    bytes       BLOB    NOT NULL,
    PRIMARY KEY (exchange_id, side)
) STRICT, WITHOUT ROWID;
