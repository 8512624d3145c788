BEGIN;
CREATE TABLE codeact_conversation (
        id text PRIMARY KEY, owner text NOT NULL, title text NOT NULL, created double precision NOT NULL,
        updated double precision NOT NULL, pinned boolean NOT NULL, head bigint NOT NULL, settings text NOT NULL);
INSERT INTO "codeact_conversation" VALUES('0123456789abcdef0123456789abcdef','ann','Old cars',1700000000.0,1700000003.0,true,5,'{"model": "m"}');
CREATE TABLE codeact_event (
        conversation text NOT NULL REFERENCES codeact_conversation ON DELETE CASCADE, seq bigint NOT NULL,
        parent bigint, type text NOT NULL, size bigint NOT NULL, body text NOT NULL,
        PRIMARY KEY (conversation, seq));
INSERT INTO "codeact_event" VALUES('0123456789abcdef0123456789abcdef',1,NULL,'run_started',132,'{"time":1700000000.5,"type":"run_started","task":"How many rows, in 北京?","files":[],"model":"","format":"","sandbox":"","prompt":""}');
INSERT INTO "codeact_event" VALUES('0123456789abcdef0123456789abcdef',2,NULL,'turn_started',52,'{"time":1700000001.0,"type":"turn_started","turn":1}');
INSERT INTO "codeact_event" VALUES('0123456789abcdef0123456789abcdef',4,NULL,'model_replied',294,'{"time":1700000002.0,"type":"model_replied","turn":1,"reply":{"text":"It''s 5.","thought":"","code":null,"answer":"It''s 5.","dropped":false,"tool_call":null,"problem":null,"neighbouring":false},"usage":{"prompt_tokens":0,"completion_tokens":0,"cached_tokens":0,"estimated":false},"duration":0.0}');
INSERT INTO "codeact_event" VALUES('0123456789abcdef0123456789abcdef',5,2,'notice',78,'{"time":1700000003.0,"type":"notice","text":"another branch","to_model":false}');
CREATE TABLE codeact_store (version integer NOT NULL);
INSERT INTO "codeact_store" VALUES(1);
CREATE INDEX codeact_listed ON codeact_conversation (owner, pinned, updated, id);
COMMIT;
