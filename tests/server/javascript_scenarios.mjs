// The clients' own packages of npm, unchanged, against the real server: one scenario each, named by the argument.
//
//   node javascript_scenarios.mjs URL SCENARIO     in a folder that has the packages: javascript_test.py puts it there
//
// The model behind it calls `weather` once, with the city of Rome, and then says CLOSING; without tools it says PLAIN.
import assert from "node:assert/strict";

const [url, scenario] = process.argv.slice(2);
const CLOSING = "In Rome the sun shines.";
const PLAIN = "All is well.";
const QUESTION = { role: "user", content: "How is the weather in Rome?" };
const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = ({ city }) => (assert.equal(city, "Rome"), "Sun.");

async function openai(name) {
  const { default: OpenAI } = await import(name);
  const client = new OpenAI({ baseURL: url + "/v1", apiKey: "any" });
  const model = (await client.models.list()).data[0].id;
  const tools = [{ type: "function", function: { name: "weather", parameters: SCHEMA, parse: JSON.parse, function: weather } }];
  const runner = client.chat.completions.runTools({ model, messages: [QUESTION], tools, stream: true });
  assert.equal(await runner.finalContent(), CLOSING);
  const stream = client.chat.completions.stream({ model, messages: [QUESTION], stream_options: { include_usage: true } });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  assert.equal(text, PLAIN);
  assert.ok((await stream.totalUsage()).completion_tokens > 0);
  const responses = client.responses.stream({ model, input: "Hello.", instructions: "Be kind." });
  text = "";
  for await (const event of responses) if (event.type === "response.output_text.delta") text += event.delta;
  assert.equal(text, PLAIN);
  assert.equal((await responses.finalResponse()).output_text, PLAIN);
  const flat = [{ type: "function", name: "weather", parameters: SCHEMA, strict: false }];
  const called = (await client.responses.create({ model, input: [QUESTION], tools: flat })).output;
  assert.deepEqual(JSON.parse(called[0].arguments), { city: "Rome" });
  const input = [QUESTION, ...called, { type: "function_call_output", call_id: called[0].call_id, output: "Sun." }];
  assert.equal((await client.responses.create({ model, input, tools: flat })).output_text, CLOSING);
  const vectors = await client.embeddings.create({ model, input: ["a", "b"] });
  assert.equal(vectors.data[0].embedding.length, vectors.data[1].embedding.length);
  await assert.rejects(client.chat.completions.create({ model: "none", messages: [QUESTION] }), OpenAI.NotFoundError);
  await assert.rejects(client.chat.completions.create({ model, messages: [QUESTION], n: 2 }), OpenAI.BadRequestError);
}

async function anthropic() {
  const { default: Anthropic } = await import("@anthropic-ai/sdk");
  const client = new Anthropic({ baseURL: url, apiKey: "any" });
  const tools = [{ name: "weather", input_schema: SCHEMA }];
  const messages = [QUESTION];
  const stream = client.messages.stream({ model: "local", max_tokens: 200, messages, tools });
  let json = "";
  stream.on("inputJson", (piece) => (json += piece));
  const called = await stream.finalMessage();
  assert.equal(called.stop_reason, "tool_use");
  const use = called.content.find((block) => block.type === "tool_use");
  assert.deepEqual([use.input, JSON.parse(json)], [{ city: "Rome" }, { city: "Rome" }]);
  messages.push({ role: "assistant", content: called.content });
  messages.push({ role: "user", content: [{ type: "tool_result", tool_use_id: use.id, content: weather(use.input) }] });
  const last = await client.messages.create({ model: "local", max_tokens: 200, messages, tools });
  assert.deepEqual([last.content[0].text, last.stop_reason], [CLOSING, "end_turn"]);
  assert.ok((await client.messages.countTokens({ model: "local", messages, tools })).input_tokens > 50);
  await assert.rejects(client.messages.create({ model: "none", max_tokens: 1, messages }), Anthropic.NotFoundError);
}

async function ollama() {
  const { Ollama } = await import("ollama");
  const client = new Ollama({ host: url });
  const model = (await client.list()).models[0].name;
  assert.ok((await client.show({ model })).capabilities.includes("tools"));
  const tools = [{ type: "function", function: { name: "weather", parameters: SCHEMA } }];
  const messages = [QUESTION];
  const calls = [];
  for await (const part of await client.chat({ model, messages, tools, stream: true }))
    calls.push(...(part.message.tool_calls ?? []));
  assert.deepEqual(calls[0].function.arguments, { city: "Rome" });
  messages.push({ role: "assistant", content: "", tool_calls: calls });
  messages.push({ role: "tool", tool_name: "weather", content: "Sun." });
  assert.equal((await client.chat({ model, messages, tools })).message.content, CLOSING);
  assert.equal((await client.embed({ model, input: ["a", "b"] })).embeddings.length, 2);
  assert.equal((await client.ps()).models.length, 1);
  assert.match((await client.version()).version, /^\d/);
  await assert.rejects(client.chat({ model: "none", messages }), /not found/);
}

async function ai(name, compatible) {
  const { generateText, streamText, tool, jsonSchema, stepCountIs, isStepCount } = await import(name);
  const { createOpenAICompatible } = await import(compatible);
  const model = createOpenAICompatible({ name: "mlx-flash", baseURL: url + "/v1", includeUsage: true })("local");
  const tools = { weather: tool({ description: "d", inputSchema: jsonSchema(SCHEMA), execute: async (input) => weather(input) }) };
  const stopWhen = (stepCountIs ?? isStepCount)(3);
  const whole = await generateText({ model, tools, stopWhen, prompt: QUESTION.content });
  assert.deepEqual([whole.text, whole.finishReason, whole.steps.length], [CLOSING, "stop", 2]);
  const streamed = streamText({ model, tools, stopWhen, prompt: QUESTION.content });
  let text = "";
  for await (const piece of streamed.textStream) text += piece;
  assert.equal(text, CLOSING);
  assert.equal((await streamed.steps)[0].finishReason, "tool-calls");
  assert.ok((await streamed.usage).outputTokens > 0);
}

async function langchain() {
  const { ChatOpenAI } = await import("@langchain/openai");
  const { HumanMessage, ToolMessage } = await import("@langchain/core/messages");
  const model = new ChatOpenAI({ model: "local", apiKey: "any", configuration: { baseURL: url + "/v1" } });
  let text = "";
  for await (const chunk of await model.stream("Hello.")) text += chunk.content;
  assert.equal(text, PLAIN);
  const able = model.bindTools([{ type: "function", function: { name: "weather", parameters: SCHEMA } }]);
  const messages = [new HumanMessage(QUESTION.content)];
  const called = await able.invoke(messages);
  assert.deepEqual(called.tool_calls[0].args, { city: "Rome" });
  messages.push(called, new ToolMessage({ content: "Sun.", tool_call_id: called.tool_calls[0].id }));
  assert.equal((await able.invoke(messages)).content, CLOSING);
}

const scenarios = {
  openai7: () => openai("openai"),
  openai6: () => openai("openai6"),
  anthropic,
  ollama,
  ai7: () => ai("ai", "@ai-sdk/openai-compatible"),
  ai6: () => ai("ai6", "ai6-openai-compatible"),
  langchain,
};
await scenarios[scenario]();
console.log("passed");
