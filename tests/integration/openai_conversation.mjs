// A conversation of ten turns by OpenAI's client for Node: each answer goes back as it came, streamed ones too.
//
//     NODE_PATH=... node openai_conversation.mjs http://127.0.0.1:8000/v1 lab
import { createRequire } from "node:module";

const { default: OpenAI } = createRequire(import.meta.url)("openai");
const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });

const messages = [];
for (let turn = 0; turn < 10; turn += 1) {
  messages.push({ role: "user", content: "flip abc" });
  const asked = { model, messages, max_tokens: 4, temperature: 0 };
  if (turn % 2) {
    const stream = client.chat.completions.stream(asked);
    messages.push(await stream.finalMessage());
  } else {
    const answer = await client.chat.completions.create(asked);
    messages.push(answer.choices[0].message);
  }
}
const found = await client.models.retrieve(model);
console.log(JSON.stringify({ turns: messages.length, model: found.id }));
