-- The state of merges. All names resolve through search_path: the schema is the deployment's choice.

CREATE TABLE merge (
    id                  uuid PRIMARY KEY,
    owner               text NOT NULL,
    destination_cluster text NOT NULL,
    destination_index   text NOT NULL,
    identity            text NOT NULL,
    phase               text NOT NULL DEFAULT 'Pending',
    phase_since         timestamptz NOT NULL DEFAULT now(),
    pass                integer NOT NULL DEFAULT 0,
    memo                jsonb NOT NULL DEFAULT '{}',
    retry_token         text NOT NULL DEFAULT '',
    started_at          timestamptz NOT NULL DEFAULT now(),
    completed_at        timestamptz,
    released_at         timestamptz
);
-- The claim: one merge at a time for each destination.
CREATE UNIQUE INDEX merge_destination ON merge (destination_cluster, destination_index) WHERE released_at IS NULL;

CREATE TABLE source (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    merge         uuid NOT NULL REFERENCES merge ON DELETE CASCADE,
    collection_id bigint NOT NULL,
    index_name    text NOT NULL,
    index_uuid    text NOT NULL,
    shards        integer NOT NULL,
    -- Which history of the collection's index this is: counts above all sequence numbers in versions.
    generation    integer NOT NULL,
    documents     bigint NOT NULL,
    bytes         bigint NOT NULL,
    state         text NOT NULL DEFAULT 'active' CHECK (state IN ('active', 'gone', 'purged', 'waiting')),
    attention     text,
    blocked_by_us boolean NOT NULL DEFAULT false,
    UNIQUE (merge, collection_id, index_uuid)
);

-- How far the log of each shard is cut into units, for each kind of walk (exclusive ends).
CREATE TABLE shard (
    source            bigint NOT NULL REFERENCES source ON DELETE CASCADE,
    shard             integer NOT NULL,
    history_uuid      text NOT NULL,
    copy_planned_to   bigint NOT NULL DEFAULT 0 CHECK (copy_planned_to >= 0),
    verify_planned_to bigint NOT NULL DEFAULT 0 CHECK (verify_planned_to >= 0),
    PRIMARY KEY (source, shard)
);

CREATE TABLE unit (
    id                  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    merge               uuid NOT NULL REFERENCES merge ON DELETE CASCADE,
    source              bigint NOT NULL REFERENCES source ON DELETE CASCADE,
    shard               integer NOT NULL,
    kind                text NOT NULL CHECK (kind IN ('copy', 'verify')),
    pass                integer NOT NULL,
    from_seq            bigint NOT NULL,
    to_seq              bigint NOT NULL,
    cursor_seq          bigint NOT NULL,
    estimated_documents bigint NOT NULL,
    -- closed: the source is gone or the shard's history began anew; counts nowhere.
    state               text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'closed')),
    worker              text,
    epoch               bigint NOT NULL DEFAULT 0,
    -- When it may be leased: the end of the lease it has, or of the wait after a failure.
    available_at        timestamptz NOT NULL DEFAULT '-infinity',
    attempts            integer NOT NULL DEFAULT 0,
    last_error          text,
    last_error_at       timestamptz,
    documents           bigint NOT NULL DEFAULT 0,
    bytes_read          bigint NOT NULL DEFAULT 0,
    bytes_written       bigint NOT NULL DEFAULT 0,
    written             bigint NOT NULL DEFAULT 0,
    already_there       bigint NOT NULL DEFAULT 0,
    collapsed           bigint NOT NULL DEFAULT 0,
    quarantined         bigint NOT NULL DEFAULT 0,
    compared            bigint NOT NULL DEFAULT 0,
    different           bigint NOT NULL DEFAULT 0,
    repaired            bigint NOT NULL DEFAULT 0,
    cuts                jsonb,
    CHECK (0 <= from_seq AND from_seq < to_seq),
    CHECK (from_seq <= cursor_seq AND cursor_seq <= to_seq),
    CHECK ((state = 'done') <= (cursor_seq = to_seq)),
    CHECK (state = 'open' OR worker IS NULL)
);
-- A position belongs to one unit of its kind: two units cannot start at the same place.
CREATE UNIQUE INDEX unit_range ON unit (source, shard, kind, from_seq) WHERE state <> 'closed';
-- What leasing reads, in the order in which it takes: large units first.
CREATE INDEX unit_lease ON unit (merge, kind, estimated_documents DESC, id, available_at) WHERE state = 'open';
CREATE INDEX unit_source ON unit (source);
CREATE INDEX unit_merge ON unit (merge);

CREATE TABLE quarantine (
    merge          uuid NOT NULL REFERENCES merge ON DELETE CASCADE,
    source         bigint NOT NULL REFERENCES source ON DELETE CASCADE,
    chunk_id       text NOT NULL,
    unit           bigint NOT NULL REFERENCES unit ON DELETE CASCADE,
    collection_id  bigint NOT NULL,
    destination_id text,
    seq_no         bigint NOT NULL,
    class          text NOT NULL,
    reason         text NOT NULL,
    original       bytea NOT NULL,
    seen_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (merge, source, chunk_id)
);
CREATE INDEX quarantine_collection ON quarantine (merge, collection_id);
CREATE INDEX quarantine_source ON quarantine (source);
CREATE INDEX quarantine_unit ON quarantine (unit);

CREATE TABLE collection_verdict (
    merge                 uuid NOT NULL REFERENCES merge ON DELETE CASCADE,
    collection_id         bigint NOT NULL,
    source_documents      bigint NOT NULL,
    destination_documents bigint NOT NULL,
    compared              bigint NOT NULL,
    different             bigint NOT NULL,
    quarantined           bigint NOT NULL,
    collapsed             bigint NOT NULL,
    verdict               boolean NOT NULL,
    reason                text,
    decided_at            timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (merge, collection_id)
);
CREATE INDEX unit_cuts ON unit (merge) WHERE cuts IS NOT NULL;
