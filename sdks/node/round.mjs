// One round of the official TypeScript SDK, @novu/api, against a server: every answer
// is checked by the SDK itself, so an exception here is an answer that it refuses.
//
//	NOVU_URL=http://127.0.0.1:8080 NOVU_KEY=… node round.mjs FOLDER-WITH-node_modules
import { createRequire } from "node:module";
import { strict as assert } from "node:assert";

const { Novu } = createRequire(process.argv[2] + "/package.json")("@novu/api");
const novu = new Novu({ secretKey: process.env.NOVU_KEY, serverURL: process.env.NOVU_URL, retryConfig: { strategy: "none" } });

const until = async (what, ask) => {
  for (const end = Date.now() + 30_000; ; ) {
    const got = await ask();
    if (got) return got;
    if (Date.now() > end) throw new Error("waited in vain: " + what);
    await new Promise((done) => setTimeout(done, 50));
  }
};

// Subscribers
await novu.subscribers.create({ subscriberId: "ts-1", firstName: "Ann", email: "ann@example.com", phone: "+15550001", data: { a: 1 } });
await assert.rejects(novu.subscribers.create({ subscriberId: "ts-1" }, true));
await novu.subscribers.createBulk({ subscribers: [{ subscriberId: "ts-2" }, { subscriberId: "ts-1", lastName: "B" }] });
assert.equal((await novu.subscribers.retrieve("ts-1")).result.lastName, "B");
await novu.subscribers.patch({ email: "ann2@example.com" }, "ts-1");
assert.equal((await novu.subscribers.search({ limit: 10, subscriberId: "ts-1" })).result.data.length, 1);
await novu.subscribers.properties.updateOnlineFlag({ isOnline: true }, "ts-1");
await assert.rejects(novu.subscribers.retrieve("nobody"), (e) => e.statusCode === 404);

// Topics
await novu.topics.create({ key: "ts-topic", name: "T" });
await novu.topics.create({ key: "ts-topic", name: "T2" });
await novu.topics.subscriptions.create({ subscriberIds: ["ts-1", "ts-2", "ghost"] }, "ts-topic");
assert.equal((await novu.topics.subscriptions.list({ topicKey: "ts-topic" })).result.data.length, 2);
assert.equal((await novu.subscribers.topics.list({ subscriberId: "ts-1" })).result.data.length, 1);
await novu.topics.subscriptions.delete({ subscriberIds: ["ts-2"] }, "ts-topic");
await novu.topics.list({});
await novu.topics.update({ name: "T3" }, "ts-topic");
assert.equal((await novu.topics.get("ts-topic")).result.name, "T3");

// Workflows
const made = await novu.workflows.create({
  name: "TS workflow", workflowId: "ts-workflow", active: true, tags: ["x"],
  steps: [
    { name: "In", type: "in_app", controlValues: { body: "Hello {{payload.name}}", subject: "S" } },
    { name: "D", type: "digest", controlValues: { type: "regular", amount: 1, unit: "seconds", digestKey: "payload.key" } },
    { name: "W", type: "delay", controlValues: { type: "regular", amount: 1, unit: "seconds" } },
    { name: "E", type: "email", controlValues: { subject: "Hi", body: "{{step.total_count}}" } },
    { name: "X", type: "sms", controlValues: { body: "text" } },
  ],
});
assert.equal(made.result.steps.length, 5);
await novu.workflows.list({ limit: 10, offset: 0 });
await novu.workflows.get("ts-workflow");
await novu.workflows.get(made.result.slug);
await novu.workflows.patch({ description: "d" }, "ts-workflow");
await novu.workflows.steps.retrieve("ts-workflow", made.result.steps[0].stepId);
await novu.workflows.create({ name: "TS delay", workflowId: "ts-delay", active: true, steps: [
  { name: "W", type: "delay", controlValues: { type: "regular", amount: 1, unit: "hours" } }, { name: "In", type: "in_app", controlValues: { body: "late" } }] });

// Events
const one = await novu.trigger({ workflowId: "ts-workflow", to: ["ts-1", { subscriberId: "ts-3", email: "c@example.com" }], payload: { name: "Ann", key: "k" } });
assert.equal(one.result.status, "processed");
const again = await novu.trigger({ workflowId: "ts-workflow", to: "ts-1", transactionId: "ts-tx", payload: { key: "k2" } }, "ts-key");
assert.equal(again.result.transactionId, "ts-tx");
await novu.trigger({ workflowId: "ts-workflow", to: "ts-1", transactionId: "ts-tx", payload: { key: "k2" } }, "ts-key");
await assert.rejects(novu.trigger({ workflowId: "nope", to: "ts-1" }), (e) => e.statusCode === 422);
const bulk = await novu.triggerBulk({ events: [{ workflowId: "ts-workflow", to: "ts-1", payload: {} }, { workflowId: "nope", to: "ts-1" }] });
assert.deepEqual(bulk.result.map((r) => r.status), ["processed", "error"]);
await novu.triggerBroadcast({ name: "ts-workflow", payload: {} });
await novu.trigger({ workflowId: "ts-workflow", to: [{ type: "Topic", topicKey: "ts-topic" }], payload: {} });
const late = await novu.trigger({ workflowId: "ts-delay", to: "ts-1" });
await until("the delay", async () => (await novu.notifications.list({ transactionId: late.result.transactionId })).result.data[0]?.jobs?.some((j) => j.status === "delayed"));
assert.equal((await novu.cancel(late.result.transactionId)).result, true);
assert.equal((await novu.cancel("nothing")).result, false);

// Activity
const done = await until("the end", async () => {
  const page = (await novu.notifications.list({ transactionId: one.result.transactionId, limit: 50 })).result;
  return page.data.length === 2 && page.data.every((n) => n.jobs.every((j) => !["pending", "queued", "running", "delayed"].includes(j.status))) && page;
});
await novu.notifications.retrieve(done.data[0].id);
const all = await novu.notifications.list({ limit: 100, subscriberIds: ["ts-1"], channels: ["in_app"] });
assert.ok(all.result.data.length >= 3);

// Messages and the feed
const messages = await novu.messages.retrieve({ subscriberId: "ts-1", limit: 100 });
assert.ok(messages.result.data.length > 0);
const feed = await novu.subscribers.notifications.feed({ subscriberId: "ts-1", limit: 100 });
assert.ok(feed.result.data.length > 0);
await novu.subscribers.notifications.unseenCount({ subscriberId: "ts-1" });
await novu.subscribers.messages.markAllAs({ messageId: feed.result.data[0].id, markAs: "read" }, "ts-1");
await novu.subscribers.messages.markAll({ markAs: "seen" }, "ts-1");
await novu.messages.delete(messages.result.data[0].id ?? feed.result.data[0].id);
await novu.messages.deleteByTransactionId("ts-tx");

// The inbox of v2
const inbox = await novu.subscribers.notifications.list({ subscriberId: "ts-1", limit: 20 });
assert.ok(inbox.result.data.length > 0);
const item = { subscriberId: "ts-1", notificationId: inbox.result.data[0].id };
assert.equal((await novu.subscribers.notifications.markAsRead(item)).result.isRead, true);
assert.equal((await novu.subscribers.notifications.markAsUnread(item)).result.isRead, false);
assert.equal((await novu.subscribers.notifications.archive(item)).result.isArchived, true);
assert.equal((await novu.subscribers.notifications.unarchive(item)).result.isArchived, false);
const until2999 = { snoozeUntil: new Date("2999-01-01T00:00:00Z") };
assert.equal((await novu.subscribers.notifications.snooze({ ...item, snoozeSubscriberNotificationDto: until2999 })).result.isSnoozed, true);
assert.equal((await novu.subscribers.notifications.unsnooze(item)).result.isSnoozed, false);
await novu.subscribers.notifications.completeAction({ ...item, actionType: "primary" });
await novu.subscribers.notifications.revertAction({ ...item, actionType: "primary" });
const counts = await novu.subscribers.notifications.count("ts-1", JSON.stringify([{ read: false }, { archived: true }]));
assert.equal(counts.result.length, 2);
await novu.subscribers.notifications.markAsSeen({ notificationIds: [item.notificationId] }, "ts-1");
await novu.subscribers.notifications.markAllAsRead({}, "ts-1");
await novu.subscribers.notifications.archiveAllRead({}, "ts-1");
await novu.subscribers.notifications.archiveAll({}, "ts-1");
await novu.subscribers.notifications.delete(item);
await novu.subscribers.notifications.deleteAll({}, "ts-1");

// One subscription, a preview, all types of steps
await novu.topics.subscriptions.getSubscription("ts-topic", "ts-1");
await novu.topics.subscribers.retrieve("ts-1", "ts-topic");
const preview = await novu.workflows.steps.generatePreview({
  workflowId: "ts-workflow", stepId: made.result.steps[0].stepId, generatePreviewRequestDto: { previewPayload: { payload: { name: "Eve" } } },
});
assert.equal(preview.result.result.preview.body, "Hello Eve");
const every = await novu.workflows.create({
  name: "TS every", workflowId: "ts-every", active: true, steps: [
    { name: "T", type: "throttle", controlValues: { type: "fixed", amount: 1, unit: "hours", threshold: 100 } },
    { name: "C", type: "custom", controlValues: { a: "b" } },
    { name: "P", type: "push", controlValues: { subject: "s", body: "b" } },
    { name: "H", type: "chat", controlValues: { body: "b" } },
    { name: "R", type: "http_request", controlValues: { method: "POST", url: "https://example.com" } },
    { name: "M", type: "delay", controlValues: { type: "timed", cron: "0 9 * * 1" } }],
});
assert.equal(every.result.steps.length, 6);
const everyRun = await novu.trigger({ workflowId: "ts-every", to: "ts-1" });
await until("what can't be sent", async () => (await novu.notifications.list({ transactionId: everyRun.result.transactionId })).result.data[0]?.jobs?.some((j) => j.status === "delayed"));
await novu.cancel(everyRun.result.transactionId);

const missed = await novu.trigger({ workflowId: "ts-delay", to: { type: "Topic", topicKey: "ts-nothing" } });
const entry = await until("the missing topic", async () => (await novu.notifications.list({ transactionId: missed.result.transactionId })).result.data[0]);
assert.match(entry.jobs[0].executionDetails[0].detail, /ts-nothing not found/);
assert.equal((await novu.notifications.retrieve(entry.id)).result.topics[0].topicKey, "ts-nothing");
const timed = await novu.workflows.create({ name: "TS timed", workflowId: "ts-timed", active: true, steps: [
  { name: "D", type: "digest", controlValues: { type: "timed", cron: "0 9 * * 1-5" } }, { name: "In", type: "in_app", controlValues: { body: "b" } }] });
assert.equal(timed.result.steps[0].controls.values.cron, "0 9 * * 1-5");
const timedRun = await novu.trigger({ workflowId: "ts-timed", to: "ts-1" });
const timedJob = await until("the digest", async () => (await novu.notifications.list({ transactionId: timedRun.result.transactionId })).result.data[0]?.jobs?.find((j) => j.status === "delayed"));
assert.equal(timedJob.digest.timed.cronExpression, "0 9 * * 1-5");
await novu.cancel(timedRun.result.transactionId);

// Preferences, integrations, environments
const wanted = await novu.subscribers.preferences.update({ workflowId: "ts-workflow", channels: { email: false } }, "ts-1");
assert.equal(wanted.result.workflows.find((w) => w.workflow.identifier === "ts-workflow").channels.email, false);
await novu.subscribers.preferences.list({ subscriberId: "ts-1" });
await novu.subscribers.preferences.bulkUpdate({ preferences: [{ workflowId: "ts-workflow", channels: { sms: false } }] }, "ts-1");
const integration = await novu.integrations.create({ providerId: "slack", channel: "chat", active: true, credentials: {} });
await novu.subscribers.credentials.update({ providerId: "slack", credentials: { webhookUrl: "https://example.com" } }, "ts-1");
await novu.subscribers.credentials.append({ providerId: "slack", credentials: { channel: "c" } }, "ts-1");
await novu.subscribers.retrieve("ts-1");
await novu.subscribers.credentials.delete("ts-1", "slack");
await novu.integrations.list();
await novu.integrations.listActive();
await novu.integrations.setAsPrimary(integration.result.id);
await novu.integrations.update({ name: "Chat" }, integration.result.id);
assert.equal((await novu.integrations.integrationsControllerAutoConfigureIntegration(integration.result.id)).result.success, false);
await assert.rejects(novu.integrations.createMobileLink({}, integration.result.identifier), (e) => e.statusCode === 400);
await novu.integrations.delete(integration.result.id);
const [environment] = (await novu.environments.list()).result;
await novu.environments.update({ name: "TS" }, environment.id);
assert.deepEqual((await novu.environments.getTags(environment.id)).result, [{ name: "x" }]);
assert.equal((await novu.environments.diff({}, environment.id)).result.summary.hasChanges, false);
assert.equal((await novu.environments.publish({}, environment.id)).result.summary.resources, 0);
await assert.rejects(novu.environments.create({ name: "Staging", color: "#ffffff" }), (e) => e.statusCode === 400 && /keys create/.test(e.message));
await assert.rejects(novu.environments.delete(environment.id), (e) => e.statusCode === 400);
await novu.environmentVariables.create({ key: "SITE", values: [{ environmentId: environment.id, value: "https://example.com" }] });
await novu.environmentVariables.update({ isSecret: true }, "SITE");
assert.equal((await novu.environmentVariables.retrieve("SITE")).result.values[0].value, "********");
assert.equal((await novu.environmentVariables.list("sit")).result.length, 1);
assert.deepEqual((await novu.environmentVariables.usage("SITE")).result.workflows, []);
await novu.environmentVariables.delete("SITE");

// Layouts
const layout = await novu.layouts.create({ layoutId: "ts-layout", name: "TS layout" });
await novu.layouts.update({ name: "TS layout 2", controlValues: { email: { body: "<main>{{content}}</main>", editorType: "html" } } }, "ts-layout");
assert.equal((await novu.layouts.retrieve(layout.result.slug)).result.controls.values.email.body, "<main>{{content}}</main>");
assert.equal((await novu.layouts.list({ limit: 10 })).result.totalCount, 1);
const shown = await novu.layouts.generatePreview({ previewPayload: {} }, "ts-layout");
assert.equal(shown.result.result.preview.body, "<main>{{content}}</main>");
const twin = await novu.layouts.duplicate({ name: "TS twin" }, "ts-layout");
await novu.layouts.delete(twin.result.layoutId);
await novu.workflows.create({ name: "TS laid out", workflowId: "ts-laid-out", active: true, steps: [
  { name: "E", type: "email", controlValues: { subject: "s", body: "<p>x</p>", layoutId: "ts-layout" } }] });
assert.deepEqual((await novu.layouts.usage("ts-layout")).result.workflows, [{ name: "TS laid out", workflowId: "ts-laid-out" }]);
await assert.rejects(novu.layouts.delete("ts-layout"), (e) => e.statusCode === 400);
await assert.rejects(novu.layouts.retrieve("nothing"), (e) => e.statusCode === 404);

if (process.env.NOVU_STATUSES) {
  // The nine statuses, as the test wrote them.
  const seen = new Set((await novu.notifications.list({ transactionId: process.env.NOVU_STATUSES, limit: 50 })).result.data.flatMap((n) => n.jobs.map((j) => j.status)));
  for (const s of ["pending", "queued", "running", "completed", "failed", "delayed", "canceled", "merged", "skipped"]) assert.ok(seen.has(s), s);
}

await novu.workflows.delete("ts-delay");
await novu.topics.delete("ts-topic");
await novu.subscribers.delete("ts-2");
console.log("round done");
