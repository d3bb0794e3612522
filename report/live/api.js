"use strict";
// Asks the server. Every request carries the token of this page in a header.

crossdiff.api = (() => {
  const token = document.querySelector('meta[name="token"]').content;

  async function answered(path, body, signal) {
    const headers = { "X-Crossdiff-Token": token, "Content-Type": "application/json" };
    const sent = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    let response;
    try {
      response = await fetch(`/api/${path}`, { ...sent, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The server does not answer. Does crossdiff explore still run?");
    }
    if (response.ok) return response;
    const said = await response.text();
    let line = said.trim();
    try {
      line = JSON.parse(said).error;
    } catch {
      // it is the line itself
    }
    throw new Error(line || `The server answered ${response.status}.`);
  }

  async function ask(path, body, signal) {
    return (await answered(path, body, signal)).json();
  }

  // The values of an answer that comes line by line.
  async function* stream(path, body, signal) {
    const response = await answered(path, body, signal);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const found = JSON.parse(line);
        if (found.error) throw new Error(found.error);
        yield found;
      }
    }
  }

  return { ask, stream };
})();
