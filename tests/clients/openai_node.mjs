// node openai_node.mjs URL FOLDER: openai-node, installed in FOLDER, against a server.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [url, folder] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(folder), "package.json"));
const OpenAI = require("openai").default;

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const ask = {
  model: "any",
  temperature: 0,
  max_tokens: 32,
  messages: [{ role: "user", content: "What is the capital of France?" }],
};

const whole = await client.chat.completions.create({ ...ask, memory: { budget: 512, report: "spans" } });
assert.match(whole.choices[0].message.content, /Paris/);
assert.equal(whole.memory.budget.entries_per_head, 512);
assert.ok(whole.usage.memory.tokens_in > 20);

let text = "";
let last = null;
for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
  text += chunk.choices[0]?.delta?.content ?? "";
  if (chunk.choices[0]?.finish_reason) last = chunk;
}
assert.match(text, /Paris/);
assert.ok(last.memory.tokens_in > 20);

await assert.rejects(
  client.chat.completions.create({ ...ask, temperature: -1 }),
  (error) => error.status === 400 && error.param === "temperature",
);
const answer = await client.responses.create({
  model: "any", input: "What is the capital of France?", temperature: 0, max_output_tokens: 32,
});
assert.match(answer.output_text, /Paris/);
