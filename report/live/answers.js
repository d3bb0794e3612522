"use strict";
// Answers of base, chat and steered chat, side by side, as they are made.

crossdiff.answers = (() => {
  const { element } = crossdiff;
  const WHO = ["base", "chat", "steered"];
  const at = (id) => document.getElementById(id);
  let running = null; // AbortController of the answers that are made now
  let answers = {}; // who -> text
  let made = null; // what was asked for them, once they are whole

  function show(texts, of = null) {
    answers = { ...texts };
    made = of;
    for (const who of WHO) {
      at(who).textContent = answers[who] ?? "";
      at(`${who}-tokens`).textContent = "";
    }
  }

  function busy(is) {
    at("answer").disabled = is;
    at("stop").disabled = !is;
    for (const who of WHO) at(who).setAttribute("aria-busy", String(is));
  }

  async function run(asked) {
    stop();
    const mine = (running = new AbortController());
    show({});
    busy(true);
    try {
      for await (const step of crossdiff.api.stream("answers", asked, mine.signal)) {
        if (running !== mine) return;
        answers[step.who] = step.text;
        const empty = step.done && !step.text;
        const nothing = element("span", { className: "soft" }, "(nothing a reader sees)");
        at(step.who).replaceChildren(empty ? nothing : step.text);
        at(`${step.who}-tokens`).textContent = `${step.tokens} tokens${step.done ? "" : " …"}`;
      }
      made = asked;
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    } finally {
      if (running === mine) {
        running = null;
        busy(false);
      }
    }
  }

  // Closing the connection is what tells the server to stop.
  function stop() {
    if (running) running.abort();
    running = null;
    busy(false);
  }

  return { run, stop, show, all: () => answers, made: () => made };
})();
