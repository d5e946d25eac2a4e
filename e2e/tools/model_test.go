package tools

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// answer is what both models say, a part at a time.
var answer = []string{"Four", " paws", ", one", " patrol."}

// serveOpenAI is the part of the API that a streamed chat completion needs.
func serveOpenAI(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/chat/completions" || !wantsStream(r) {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for i, part := range answer {
		finish := "null"
		if i == len(answer)-1 {
			finish = `"stop"`
		}
		event(w, "", fmt.Sprintf(`{"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"content":%q},"finish_reason":%s}]}`, part, finish))
	}
	event(w, "", "[DONE]")
}

// serveAnthropic is the part of the API that a streamed message needs.
func serveAnthropic(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/messages" || r.Header.Get("Anthropic-Version") == "" || !wantsStream(r) {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	event(w, "message_start", `{"type":"message_start","message":{"id":"m1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":1,"output_tokens":1}}}`)
	event(w, "content_block_start", `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}`)
	for _, part := range answer {
		event(w, "content_block_delta", fmt.Sprintf(`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%q}}`, part))
	}
	event(w, "content_block_stop", `{"type":"content_block_stop","index":0}`)
	event(w, "message_delta", `{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":4}}`)
	event(w, "message_stop", `{"type":"message_stop"}`)
}

func wantsStream(r *http.Request) bool {
	var body struct {
		Stream bool `json:"stream"`
	}
	return json.NewDecoder(r.Body).Decode(&body) == nil && body.Stream
}

func event(w http.ResponseWriter, name, data string) {
	if name != "" {
		fmt.Fprintf(w, "event: %s\n", name)
	}
	fmt.Fprintf(w, "data: %s\n\n", data)
	_ = http.NewResponseController(w).Flush() // the asker may be gone
}

func modelTools() []tool {
	const node = "node --input-type=module"
	said := fmt.Sprintf("%d parts: %s", len(answer), strings.Join(answer, ""))
	return []tool{
		{
			name: "OpenAI SDK", host: openAIHost, ca: byEnv,
			does: "a streamed chat completion from `api.openai.com`, with `OPENAI_API_KEY` from `env`",
			line: script(node, `
import OpenAI from "openai";
const stream = await new OpenAI().chat.completions.create({ model: "m", stream: true, messages: [{ role: "user", content: "Hi" }] });
const parts = [];
for await (const chunk of stream) parts.push(chunk.choices[0].delta.content);
console.log(parts.length, "parts:", parts.join(""));`),
			want: said,
			note: "for Node; Python's is httpx",
		},
		{
			name: "Anthropic SDK", host: anthropicHost, ca: byEnv,
			does: "a streamed message from `api.anthropic.com`, with `ANTHROPIC_API_KEY` from `env`",
			line: script(node, `
import Anthropic from "@anthropic-ai/sdk";
const parts = [];
const stream = new Anthropic().messages.stream({ model: "m", max_tokens: 100, messages: [{ role: "user", content: "Hi" }] });
stream.on("text", (text) => parts.push(text));
await stream.finalMessage();
console.log(parts.length, "parts:", parts.join(""));`),
			want: said,
			note: "for Node; Python's is httpx",
		},
	}
}
