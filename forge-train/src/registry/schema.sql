-- Version 1. Times are Unix seconds, JSON is text.
CREATE TABLE sessions (
    id            TEXT PRIMARY KEY,
    preset        TEXT NOT NULL,
    seed          INTEGER NOT NULL,
    config        TEXT NOT NULL,
    status        TEXT NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'paused')),
    current_phase INTEGER CHECK (current_phase BETWEEN 1 AND 8),
    error         TEXT,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_created ON sessions (created_at);
CREATE INDEX sessions_status ON sessions (status);

CREATE TABLE artifacts (
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    hash       TEXT NOT NULL CHECK (length(hash) = 64),
    kind       TEXT NOT NULL,
    file       TEXT NOT NULL,
    bytes      INTEGER NOT NULL CHECK (bytes >= 0),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (session_id, hash, kind)
) STRICT;
CREATE INDEX artifacts_hash ON artifacts (hash);

CREATE TABLE phases (
    session_id  TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    number      INTEGER NOT NULL CHECK (number BETWEEN 1 AND 8),
    name        TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('running', 'completed', 'failed', 'paused')),
    seconds     REAL NOT NULL DEFAULT 0,
    parents     TEXT NOT NULL DEFAULT '[]',
    output      TEXT,
    error       TEXT,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (session_id, number),
    CHECK (status <> 'completed' OR output IS NOT NULL)
) STRICT;
CREATE INDEX phases_name ON phases (name);

CREATE TABLE models (
    session_id TEXT NOT NULL,
    phase      INTEGER NOT NULL,
    label      TEXT NOT NULL,
    hash       TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('weights', 'forge')),
    bytes      INTEGER NOT NULL CHECK (bytes >= 0),
    created_at INTEGER NOT NULL,
    PRIMARY KEY (session_id, phase, label),
    FOREIGN KEY (session_id, phase) REFERENCES phases (session_id, number) ON DELETE CASCADE,
    FOREIGN KEY (session_id, hash, kind) REFERENCES artifacts (session_id, hash, kind)
) STRICT;
CREATE INDEX models_hash ON models (session_id, hash, kind);

CREATE TABLE handoffs (
    session_id TEXT NOT NULL,
    source     INTEGER NOT NULL,
    target     INTEGER NOT NULL CHECK (target = source + 1),
    status     TEXT NOT NULL CHECK (status IN ('passed', 'failed')),
    checks     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (session_id, source),
    FOREIGN KEY (session_id, source) REFERENCES phases (session_id, number) ON DELETE CASCADE
) STRICT;
