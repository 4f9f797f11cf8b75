-- Bodies in pieces. What is in the table `body` was written before, and is read as it is.

-- A stretch of stored bytes, all of one tenant's.
CREATE TABLE segment (
    id     INTEGER PRIMARY KEY,
    tenant TEXT    NOT NULL
) STRICT;

-- The bytes of a segment, as they were appended: its chunks one after the other are one stream of zstd.
CREATE TABLE chunk (
    id     INTEGER PRIMARY KEY,                   -- segment.id * 65536 + number in the segment
    pieces BLOB    NOT NULL,                      -- what can be found again in it, see payloads/index.rs
    length INTEGER NOT NULL,                      -- unpacked
    bytes  BLOB    NOT NULL
) STRICT;

-- Which stretches make up the bodies of an exchange, see payloads/recipe.rs; null: an empty body.
CREATE TABLE recipe (
    exchange_id BLOB PRIMARY KEY,
    request     BLOB,
    response    BLOB
) STRICT, WITHOUT ROWID;
