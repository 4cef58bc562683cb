-- Pipelines, and the one lifecycle that every action goes through:
--
--   pending (perform_at NULL: not its turn; set: due then) -> queued -> running
--   -> completed | failed | pending again (retry) | delayed (a timer) -> ...
--
-- Whoever writes these tables, an app by plain SQL or the engine, the rules hold,
-- because they are here. Locks: everything is new.

-- +goose Up
CREATE TABLE pgautomate.pipelines (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    name            text NOT NULL,
    object_type     text NOT NULL DEFAULT 'lead',
    status          text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused')),
    reenrolment     text NOT NULL DEFAULT 'after_exit',
    goal            jsonb,
    version         integer NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL DEFAULT now(),
    UNIQUE (organization_id, name),
    CONSTRAINT reenrolment_is_a_policy CHECK (
        reenrolment IN ('never', 'after_exit', 'always') OR reenrolment::interval >= '0'::interval)
);
COMMENT ON COLUMN pgautomate.pipelines.reenrolment IS
    'never; after_exit (once the run before has ended); always; or an interval since the last entry, e.g. 30 days. Never two runs at once.';

CREATE INDEX pipelines_object_type_idx ON pgautomate.pipelines (object_type);

CREATE TABLE pgautomate.pipeline_stages (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline_id bigint NOT NULL REFERENCES pgautomate.pipelines ON DELETE CASCADE,
    name        text NOT NULL,
    position    integer NOT NULL DEFAULT 1,
    UNIQUE (pipeline_id, name)
);

CREATE TABLE pgautomate.pipeline_stage_actions (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pipeline_stage_id bigint NOT NULL REFERENCES pgautomate.pipeline_stages ON DELETE CASCADE,
    sequence_number   integer NOT NULL,
    action_type       text NOT NULL,
    params            jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(params) = 'object'),
    UNIQUE (pipeline_stage_id, sequence_number),
    CONSTRAINT max_attempts_is_1_to_100 CHECK (
        params -> 'max_attempts' IS NULL
        OR CASE WHEN jsonb_typeof(params -> 'max_attempts') = 'number'
                THEN (params ->> 'max_attempts')::numeric BETWEEN 1 AND 100
                 AND (params ->> 'max_attempts')::numeric % 1 = 0
                ELSE false END)
);

CREATE TABLE pgautomate.lead_stages (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id   text NOT NULL,
    lead_id           text NOT NULL,
    pipeline_id       bigint NOT NULL,
    pipeline_stage_id bigint NOT NULL REFERENCES pgautomate.pipeline_stages ON DELETE CASCADE,
    status            text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'completed', 'exited', 'failed')),
    reason            text,
    entered_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at       timestamptz,
    cause             jsonb,
    depth             integer NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX lead_stages_one_active_idx ON pgautomate.lead_stages (organization_id, lead_id, pipeline_id)
    WHERE status = 'active';
CREATE INDEX lead_stages_lead_idx ON pgautomate.lead_stages (organization_id, lead_id, entered_at);
CREATE INDEX lead_stages_stage_idx ON pgautomate.lead_stages (pipeline_stage_id);
COMMENT ON COLUMN pgautomate.lead_stages.cause IS 'What made the entry, when an automation did: the chain of causes, for the loop guard.';

-- One row for each lead that ever entered a pipeline. It is what concurrent
-- entries of one lead wait for, so that the second sees what the first did
-- instead of failing on the unique index; and it knows the last entry without a
-- look at history. Row locks have no limit, unlike advisory ones.
CREATE TABLE pgautomate.lead_runs (
    organization_id text NOT NULL,
    lead_id         text NOT NULL,
    pipeline_id     bigint NOT NULL REFERENCES pgautomate.pipelines ON DELETE CASCADE,
    entries         integer NOT NULL DEFAULT 0,
    last_entered_at timestamptz,
    PRIMARY KEY (organization_id, lead_id, pipeline_id)
) WITH (fillfactor = 80);

CREATE TABLE pgautomate.lead_stage_actions (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    lead_id         text NOT NULL,
    lead_stage_id   bigint,
    sequence_number integer NOT NULL DEFAULT 1,
    action_type     text NOT NULL,
    params          jsonb NOT NULL DEFAULT '{}',
    status          pgautomate.job_status NOT NULL DEFAULT 'pending',
    reason          text,
    perform_at      timestamptz,
    attempt         integer NOT NULL DEFAULT 0,
    max_attempts    integer NOT NULL DEFAULT 10,
    error           text,
    result          jsonb,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    queued_at       timestamptz,
    started_at      timestamptz,
    finished_at     timestamptz,
    object_type     text NOT NULL DEFAULT 'lead',
    firing_id       bigint,
    firing_at       timestamptz,
    cause           jsonb,
    depth           integer NOT NULL DEFAULT 0,
    worker_id       bigint,
    fence           bigint NOT NULL DEFAULT 0,
    timer           boolean NOT NULL DEFAULT false,
    paused          boolean NOT NULL DEFAULT false,
    waiting_since   timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_cost_delay = 1, autovacuum_analyze_scale_factor = 0.05);
-- Due and parked, by organization and type: what a claim reads, from its head.
CREATE INDEX lead_stage_actions_due_idx ON pgautomate.lead_stage_actions (organization_id, action_type, perform_at, id)
    WHERE status = 'pending' AND perform_at IS NOT NULL AND NOT paused;
CREATE INDEX lead_stage_actions_timer_idx ON pgautomate.lead_stage_actions (organization_id, action_type, perform_at, id)
    WHERE status = 'delayed' AND NOT paused;
CREATE INDEX lead_stage_actions_paused_idx ON pgautomate.lead_stage_actions (organization_id, action_type)
    WHERE paused AND status IN ('pending', 'delayed') AND perform_at IS NOT NULL;
CREATE INDEX lead_stage_actions_in_flight_idx ON pgautomate.lead_stage_actions (organization_id, action_type, status)
    WHERE status IN ('queued', 'running');
CREATE INDEX lead_stage_actions_stage_idx ON pgautomate.lead_stage_actions (lead_stage_id, sequence_number)
    WHERE lead_stage_id IS NOT NULL;
CREATE UNIQUE INDEX lead_stage_actions_firing_idx ON pgautomate.lead_stage_actions (firing_id) WHERE firing_id IS NOT NULL;
CREATE INDEX lead_stage_actions_lead_idx ON pgautomate.lead_stage_actions (organization_id, lead_id, id);
CREATE INDEX lead_stage_actions_finished_idx ON pgautomate.lead_stage_actions (finished_at) WHERE finished_at IS NOT NULL;
COMMENT ON COLUMN pgautomate.lead_stage_actions.perform_at IS 'NULL: waits for the action before it. Else it may start from then on; the engine starts it when its organization''s throttle lets it.';
COMMENT ON COLUMN pgautomate.lead_stage_actions.attempt IS 'Starts so far.';
COMMENT ON COLUMN pgautomate.lead_stage_actions.lead_stage_id IS 'NULL: a trigger''s own action, in no pipeline.';
COMMENT ON COLUMN pgautomate.lead_stage_actions.worker_id IS 'The process that runs it (workers.id); it runs again elsewhere when that process''s heartbeat stops.';
COMMENT ON COLUMN pgautomate.lead_stage_actions.fence IS 'Counts takings by a worker: a worker that was given up for dead can''t write what a later one did.';
COMMENT ON COLUMN pgautomate.lead_stage_actions.timer IS 'The action has started and waits for, or goes on after, a timer of its own.';
COMMENT ON COLUMN pgautomate.lead_stage_actions.paused IS 'Its pipeline is paused: it keeps its perform_at and does not start.';
COMMENT ON COLUMN pgautomate.lead_stage_actions.waiting_since IS 'Since when a due action waits for its lead''s row to become visible.';

CREATE TABLE pgautomate.workers (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hostname     text NOT NULL,
    pid          integer NOT NULL,
    capacity     jsonb NOT NULL DEFAULT '{}',
    started_at   timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
COMMENT ON COLUMN pgautomate.workers.capacity IS 'Action type -> how many this process runs at once.';

-- One row for each organization and action type that ever had something to do:
-- when a claim is next worth the while. A claim reads lanes whose time has come,
-- not actions, and its lock on the lane is what keeps two schedulers from
-- spending one token twice.
CREATE TABLE pgautomate.lanes (
    organization_id text NOT NULL,
    action_type     text NOT NULL,
    next_at         timestamptz NOT NULL,
    PRIMARY KEY (organization_id, action_type)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX lanes_next_idx ON pgautomate.lanes (action_type, next_at);
COMMENT ON COLUMN pgautomate.lanes.next_at IS 'When something may next be claimed; the year 9999 when nothing is parked.';

-- Who makes an action due says so here, by an INSERT that waits for nobody: an
-- app that holds its transaction open never holds a lane.
CREATE TABLE pgautomate.due_signals (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    organization_id text NOT NULL,
    action_type     text NOT NULL,
    perform_at      timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE pgautomate.throttles (
    organization_id text NOT NULL,
    action_type     text NOT NULL DEFAULT '*',
    max_starts      integer CHECK (max_starts >= 0),
    per             interval NOT NULL DEFAULT '1 minute' CHECK (per > '0'::interval),
    max_running     integer CHECK (max_running >= 0),
    PRIMARY KEY (organization_id, action_type)
);
COMMENT ON TABLE pgautomate.throttles IS
    'Limits of each organization. ''*'' is any organization or any type; the most specific row counts: (org, type), (org, *), (*, type), (*, *). A row for type ''*'' is one budget for all types it covers. 0 pauses.';
COMMENT ON COLUMN pgautomate.throttles.max_starts IS 'At most so many actions have started_at in any window of `per`; NULL: no limit.';
COMMENT ON COLUMN pgautomate.throttles.max_running IS 'At most so many are queued or running at once; NULL: no limit.';

-- Starts counted in slices of a window, so that a check reads at most 65 rows
-- whatever the limit is.
CREATE TABLE pgautomate.throttle_starts (
    organization_id text NOT NULL,
    action_type     text NOT NULL,
    slice_start     timestamptz NOT NULL,
    slice_end       timestamptz NOT NULL,
    starts          integer NOT NULL,
    PRIMARY KEY (organization_id, action_type, slice_start, slice_end)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
COMMENT ON COLUMN pgautomate.throttle_starts.action_type IS 'As in the throttle''s row: a type, or ''*'' for the budget that types share.';
CREATE INDEX throttle_starts_end_idx ON pgautomate.throttle_starts (slice_end);

-- The engine says so in its own transactions; apps don't.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.is_engine() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(current_setting('pgautomate.engine', true), '') = 'on'
$$;
-- +goose StatementEnd

-- Before a lead enters: find the pipeline, close the stage it leaves, keep a
-- refused entry as a row with its reason. It never fails the app's statement
-- for a lead's sake, only for a stage that isn't there or isn't the organization's.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.lead_stages_before_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    pipeline  record;
    run       record;
    current   record;
    moved     text := coalesce(nullif(current_setting('pgautomate.entry', true), ''), 'moved_by_app');
    refused   text;
BEGIN
    IF NEW.organization_id IS NULL OR NEW.lead_id IS NULL OR NEW.pipeline_stage_id IS NULL THEN
        RAISE EXCEPTION 'lead_stages needs organization_id, lead_id and pipeline_stage_id' USING ERRCODE = 'not_null_violation';
    END IF;
    SELECT p.id, p.organization_id, p.reenrolment INTO pipeline
      FROM pipeline_stages s JOIN pipelines p ON p.id = s.pipeline_id
     WHERE s.id = NEW.pipeline_stage_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no stage %: take an id from pgautomate.pipeline_stages', NEW.pipeline_stage_id
            USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF pipeline.organization_id <> NEW.organization_id THEN
        RAISE EXCEPTION 'stage % belongs to organization "%", not to "%": use a stage of that organization''s own pipelines',
            NEW.pipeline_stage_id, pipeline.organization_id, NEW.organization_id USING ERRCODE = 'check_violation';
    END IF;
    NEW.pipeline_id := pipeline.id;
    IF NEW.status <> 'active' THEN
        RETURN NEW; -- history brought along by the app
    END IF;
    NEW.finished_at := NULL;

    -- Waits here for a concurrent entry of the same lead.
    INSERT INTO lead_runs AS r (organization_id, lead_id, pipeline_id)
    VALUES (NEW.organization_id, NEW.lead_id, NEW.pipeline_id)
    ON CONFLICT (organization_id, lead_id, pipeline_id) DO UPDATE SET entries = r.entries
    RETURNING r.entries, r.last_entered_at INTO run;

    IF run.entries > 0 THEN
        SELECT s.id, s.pipeline_stage_id INTO current FROM lead_stages s
         WHERE s.organization_id = NEW.organization_id AND s.lead_id = NEW.lead_id
           AND s.pipeline_id = NEW.pipeline_id AND s.status = 'active';
        IF FOUND AND current.pipeline_stage_id = NEW.pipeline_stage_id AND moved = 'moved_by_app' THEN
            refused := 'already_enrolled';
        ELSIF FOUND THEN
            PERFORM close_lead_stages(ARRAY[current.id],
                CASE WHEN moved = 'moved' THEN 'completed' ELSE 'exited' END, moved, 'stage_left');
        ELSIF moved = 'moved' OR pipeline.reenrolment IN ('after_exit', 'always') THEN
            NULL;
        ELSIF pipeline.reenrolment = 'never' THEN
            refused := 'already_enrolled';
        ELSIF run.last_entered_at + pipeline.reenrolment::interval > clock_timestamp() THEN
            refused := 'already_enrolled';
        END IF;
    END IF;
    IF refused IS NOT NULL THEN
        NEW.status := 'exited';
        NEW.reason := refused;
        NEW.finished_at := clock_timestamp();
        RETURN NEW;
    END IF;
    UPDATE lead_runs SET entries = entries + 1, last_entered_at = NEW.entered_at
     WHERE organization_id = NEW.organization_id AND lead_id = NEW.lead_id AND pipeline_id = NEW.pipeline_id;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- Ends stages: what has not run yet is canceled, what runs is left to finish
-- and then leads nowhere.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.close_lead_stages(ids bigint[], new_status text, why text, action_reason text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    closed integer;
    was    text := current_setting('pgautomate.engine', true);
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    -- The stage first: who parks an action of it holds the stage's lock, so that
    -- what was parked a moment ago is seen below.
    UPDATE lead_stages SET status = new_status, reason = why, finished_at = clock_timestamp()
     WHERE id = ANY (ids) AND status = 'active';
    GET DIAGNOSTICS closed = ROW_COUNT;
    UPDATE lead_stage_actions SET status = 'canceled', reason = action_reason, finished_at = clock_timestamp()
     WHERE lead_stage_id = ANY (ids) AND status IN ('pending', 'queued', 'delayed');
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
    RETURN closed;
END $$;
-- +goose StatementEnd

-- After leads entered, however many in one statement: their stage's actions are
-- copied, the first one due.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.lead_stages_after_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    at timestamptz := clock_timestamp();
BEGIN
    INSERT INTO lead_stage_actions (organization_id, lead_id, lead_stage_id, sequence_number, action_type, params,
                                    max_attempts, perform_at, object_type, cause, depth, paused)
    SELECT n.organization_id, n.lead_id, n.id, a.sequence_number, a.action_type, a.params,
           coalesce((a.params ->> 'max_attempts')::integer, 10),
           CASE WHEN a.sequence_number = a.first THEN at END,
           a.object_type, n.cause, n.depth, a.paused
      FROM entered n
      JOIN lead_stages s ON s.id = n.id AND s.status = 'active'
      JOIN (SELECT psa.*, p.object_type, p.status = 'paused' AS paused, min(psa.sequence_number) OVER (PARTITION BY psa.pipeline_stage_id) AS first
              FROM pipeline_stage_actions psa
              JOIN pipeline_stages ps ON ps.id = psa.pipeline_stage_id
              JOIN pipelines p ON p.id = ps.pipeline_id
             WHERE psa.pipeline_stage_id IN (SELECT pipeline_stage_id FROM entered)) a
        ON a.pipeline_stage_id = n.pipeline_stage_id
     WHERE n.status = 'active'
     ORDER BY n.id, a.sequence_number;
    -- A stage with nothing to do is done on entry.
    UPDATE lead_stages s SET status = 'completed', finished_at = at
      FROM entered n
     WHERE s.id = n.id AND n.status = 'active' AND s.status = 'active'
       AND NOT EXISTS (SELECT FROM pipeline_stage_actions a WHERE a.pipeline_stage_id = n.pipeline_stage_id);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER lead_stages_before_insert BEFORE INSERT ON pgautomate.lead_stages
    FOR EACH ROW EXECUTE FUNCTION pgautomate.lead_stages_before_insert();
CREATE TRIGGER lead_stages_after_insert AFTER INSERT ON pgautomate.lead_stages
    REFERENCING NEW TABLE AS entered
    FOR EACH STATEMENT EXECUTE FUNCTION pgautomate.lead_stages_after_insert();

-- Stages that are deleted, with their pipeline for one, leave nothing that could
-- still run.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.lead_stages_after_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    was text := current_setting('pgautomate.engine', true);
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    UPDATE lead_stage_actions SET status = 'canceled', reason = 'stage_left', finished_at = clock_timestamp()
     WHERE lead_stage_id IN (SELECT id FROM gone) AND status IN ('pending', 'queued', 'delayed');
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER lead_stages_after_delete AFTER DELETE ON pgautomate.lead_stages
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION pgautomate.lead_stages_after_delete();

-- Actions that are due from some time on wake their organization's lane.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.lead_stage_actions_after_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
BEGIN
    INSERT INTO due_signals (organization_id, action_type, perform_at)
    SELECT organization_id, action_type, min(perform_at) FROM added
     WHERE status IN ('pending', 'delayed') AND perform_at IS NOT NULL
     GROUP BY organization_id, action_type;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER lead_stage_actions_after_insert AFTER INSERT ON pgautomate.lead_stage_actions
    REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION pgautomate.lead_stage_actions_after_insert();

-- What an app may do to an action that has not run: cancel it, move its time.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.lead_stage_actions_before_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
BEGIN
    IF NEW.status = 'canceled' AND OLD.status <> 'canceled' THEN
        IF OLD.status NOT IN ('pending', 'queued', 'delayed') THEN
            RAISE EXCEPTION 'action % is %: only a pending, queued or delayed action can be canceled; add AND status IN (''pending'', ''queued'', ''delayed'')',
                OLD.id, OLD.status USING ERRCODE = 'check_violation';
        END IF;
        NEW.reason := coalesce(NEW.reason, 'canceled_by_app');
        NEW.finished_at := clock_timestamp();
    ELSIF OLD.status = 'pending' AND NEW.status = 'pending' AND NEW.lead_stage_id IS NOT NULL
          AND OLD.perform_at IS NULL AND NEW.perform_at IS NOT NULL THEN
        RAISE EXCEPTION 'it is not the turn of action % yet: it becomes due when the action before it ends; add AND perform_at IS NOT NULL',
            OLD.id USING ERRCODE = 'check_violation';
    ELSIF OLD.status IN ('pending', 'delayed') AND NEW.status IN ('pending', 'delayed')
          AND OLD.perform_at IS NOT NULL AND NEW.perform_at IS NULL THEN
        RAISE EXCEPTION 'action % would never run without a perform_at: set a time, or cancel it with status = ''canceled''',
            OLD.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER lead_stage_actions_before_update BEFORE UPDATE OF status, perform_at ON pgautomate.lead_stage_actions
    FOR EACH ROW WHEN ((NEW.status IS DISTINCT FROM OLD.status OR NEW.perform_at IS DISTINCT FROM OLD.perform_at)
                       AND NOT pgautomate.is_engine())
    EXECUTE FUNCTION pgautomate.lead_stage_actions_before_update();

-- +goose StatementBegin
CREATE FUNCTION pgautomate.lead_stage_actions_after_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
BEGIN
    IF NEW.status IN ('pending', 'delayed') AND NEW.perform_at IS NOT NULL THEN
        INSERT INTO due_signals (organization_id, action_type, perform_at)
        VALUES (NEW.organization_id, NEW.action_type, NEW.perform_at);
    ELSIF NEW.status = 'canceled' AND NEW.lead_stage_id IS NOT NULL THEN
        PERFORM advance_lead_stages(ARRAY[NEW.lead_stage_id]);
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER lead_stage_actions_after_update AFTER UPDATE OF status, perform_at ON pgautomate.lead_stage_actions
    FOR EACH ROW WHEN ((NEW.status IS DISTINCT FROM OLD.status OR NEW.perform_at IS DISTINCT FROM OLD.perform_at)
                       AND NOT pgautomate.is_engine())
    EXECUTE FUNCTION pgautomate.lead_stage_actions_after_update();

-- Stages whose next action could not be made due at once, because somebody
-- else's open transaction holds the stage or the action; the scheduler tries
-- again. So nobody ever waits for an app's lock.
CREATE TABLE pgautomate.advance_later (
    lead_stage_id bigint NOT NULL,
    noted_at      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Makes the next action of each stage due, or ends the stage when none is left.
-- A stage in which something is due, queued, running or on a timer is left alone:
-- serial means one at a time. Takes its locks without waiting, and looks at the
-- actions only with the stage's lock in hand.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.advance_lead_stages(ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    at     timestamptz := clock_timestamp();
    was    text := current_setting('pgautomate.engine', true);
    locked bigint[];
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    SELECT coalesce(array_agg(l.id), '{}') INTO locked FROM (
        SELECT s.id FROM lead_stages s WHERE s.id = ANY (ids) AND s.status = 'active'
         ORDER BY s.id FOR UPDATE SKIP LOCKED) l;
    INSERT INTO advance_later (lead_stage_id)
    SELECT s.id FROM lead_stages s WHERE s.id = ANY (ids) AND s.status = 'active' AND s.id <> ALL (locked);

    WITH next AS MATERIALIZED (
        SELECT s.id AS lead_stage_id, a.id
          FROM unnest(locked) s (id)
          LEFT JOIN LATERAL (SELECT n.id FROM lead_stage_actions n
                              WHERE n.lead_stage_id = s.id AND n.status = 'pending'
                              ORDER BY n.sequence_number, n.id LIMIT 1) a ON true
         WHERE NOT EXISTS (SELECT FROM lead_stage_actions b WHERE b.lead_stage_id = s.id
                              AND (b.status IN ('queued', 'running', 'delayed')
                                   OR b.status = 'pending' AND b.perform_at IS NOT NULL))
    ), free AS MATERIALIZED (
        SELECT a.id FROM lead_stage_actions a
         WHERE a.id IN (SELECT id FROM next) AND a.status = 'pending' AND a.perform_at IS NULL
           FOR UPDATE SKIP LOCKED
    ), due AS (
        UPDATE lead_stage_actions a SET perform_at = at FROM free WHERE a.id = free.id
        RETURNING a.organization_id, a.action_type
    ), ended AS (
        UPDATE lead_stages s SET status = 'completed', finished_at = at
          FROM next WHERE next.id IS NULL AND s.id = next.lead_stage_id AND s.status = 'active'
    ), later AS (
        INSERT INTO advance_later (lead_stage_id)
        SELECT lead_stage_id FROM next WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM free)
    )
    INSERT INTO due_signals (organization_id, action_type, perform_at)
    SELECT DISTINCT organization_id, action_type, at FROM due;
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
END $$;
-- +goose StatementEnd

-- A paused pipeline: nothing of it starts, timers keep running down, due times are
-- kept. What runs is let finish. Resuming lets everything overdue go, under the throttles.
-- +goose StatementBegin
CREATE FUNCTION pgautomate.pipelines_after_pause() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pgautomate, pg_temp AS $$
DECLARE
    was text := current_setting('pgautomate.engine', true);
BEGIN
    PERFORM set_config('pgautomate.engine', 'on', true);
    WITH changed AS (
        UPDATE lead_stage_actions a
           SET paused = (NEW.status = 'paused'),
               status = CASE WHEN NEW.status = 'paused' AND a.status = 'queued'
                             THEN CASE WHEN a.timer THEN 'delayed' ELSE 'pending' END::job_status ELSE a.status END
          FROM lead_stages s
         WHERE s.pipeline_stage_id IN (SELECT id FROM pipeline_stages WHERE pipeline_id = NEW.id)
           AND s.status = 'active' AND a.lead_stage_id = s.id
           AND a.status IN ('pending', 'queued', 'delayed', 'running')
        RETURNING a.organization_id, a.action_type, a.status, a.perform_at
    )
    INSERT INTO due_signals (organization_id, action_type, perform_at)
    SELECT organization_id, action_type, min(perform_at) FROM changed
     WHERE NEW.status = 'active' AND status IN ('pending', 'delayed') AND perform_at IS NOT NULL
     GROUP BY organization_id, action_type;
    PERFORM set_config('pgautomate.engine', coalesce(was, ''), true);
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER pipelines_after_pause AFTER UPDATE OF status ON pgautomate.pipelines
    FOR EACH ROW WHEN (NEW.status IS DISTINCT FROM OLD.status)
    EXECUTE FUNCTION pgautomate.pipelines_after_pause();

-- +goose Down
DROP TABLE pgautomate.advance_later;
DROP TABLE pgautomate.throttle_starts;
DROP TABLE pgautomate.throttles;
DROP TABLE pgautomate.due_signals;
DROP TABLE pgautomate.lanes;
DROP TABLE pgautomate.workers;
DROP TABLE pgautomate.lead_stage_actions;
DROP TABLE pgautomate.lead_runs;
DROP TABLE pgautomate.lead_stages;
DROP TABLE pgautomate.pipeline_stage_actions;
DROP TABLE pgautomate.pipeline_stages;
DROP TABLE pgautomate.pipelines;
DROP FUNCTION pgautomate.pipelines_after_pause();
DROP FUNCTION pgautomate.advance_lead_stages(bigint[]);
DROP FUNCTION pgautomate.lead_stage_actions_after_update();
DROP FUNCTION pgautomate.lead_stage_actions_before_update();
DROP FUNCTION pgautomate.lead_stage_actions_after_insert();
DROP FUNCTION pgautomate.lead_stages_after_insert();
DROP FUNCTION pgautomate.lead_stages_after_delete();
DROP FUNCTION pgautomate.close_lead_stages(bigint[], text, text, text);
DROP FUNCTION pgautomate.lead_stages_before_insert();
DROP FUNCTION pgautomate.is_engine();
