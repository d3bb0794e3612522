"use strict";
// Puts the live page together: reads a prompt, colours it, steers, answers and saves.

(() => {
  const { api, latents, tokens, steering, answers, sessions, shown } = crossdiff;
  const at = (id) => document.getElementById(id);
  let asked = null; // {crosscoder, mode, prompt} that is shown
  let top = []; // [latent, activation] of the prompt
  let chosen = null; // {latent, values}
  let effect = null;
  let effectOf = ""; // the settings that it is of
  let turn = 0; // of the prompt and the effect that were asked for last: late answers are dropped
  let effectTurn = 0;

  function say(text) {
    at("message").textContent = text;
    at("message").hidden = !text;
  }

  // Run ``act``, and say what went wrong.
  async function trying(act) {
    say("");
    try {
      await act();
    } catch (error) {
      say(error.message);
    }
  }

  function colour() {
    if (at("colour").value === "kl") {
      const most = effect ? Math.max(...effect.kl) : 0;
      const share = (value) => value / most;
      tokens.colour(effect ? effect.kl : [], share, (value) => `KL ${shown(value, 3)} nats`);
    } else if (chosen) {
      const most = Math.max(...chosen.values);
      const share = (value) => latents.share(chosen.latent, value, most);
      const say = (value) => `activation ${shown(value)} of latent ${chosen.latent}`;
      tokens.colour(chosen.values, share, say);
    } else tokens.colour([], () => 0, () => "");
  }

  async function choose(latent) {
    const mine = turn;
    const found = await api.ask("latent", { ...asked, latent });
    if (mine !== turn) return;
    latents.learn(found.latents);
    chosen = found;
    at("latent").value = latent;
    at("chosen").replaceChildren(latents.words(latent), " ", ...latents.page(latent));
    at("colour").value = "latent";
    tokens.choose(latent);
    latents.list(at("prompt-latents"), top, latent, "No latent is active on this prompt.");
    colour();
  }

  async function measure() {
    const mine = ++effectTurn;
    const settings = steering.settings();
    at("stale").textContent = Object.keys(answers.all()).length ? "The sliders have moved since." : "";
    if (!asked) return;
    const found = settings.length ? await api.ask("effect", { ...asked, latents: settings }) : null;
    if (mine !== effectTurn) return;
    [effect, effectOf] = [found, JSON.stringify(settings)];
    steering.effect(effect);
    colour();
  }

  async function read() {
    const mine = ++turn;
    const wanted = {
      crosscoder: at("crosscoder").value,
      mode: at("mode").value,
      prompt: at("prompt").value,
    };
    at("state").textContent = "reading …";
    try {
      const found = await api.ask("prompt", wanted);
      if (mine !== turn) return;
      if (asked && asked.crosscoder !== wanted.crosscoder) {
        latents.forget();
        steering.replace([]); // latents of another crosscoder
      }
      answers.stop();
      answers.show({});
      at("stale").textContent = at("saved-as").textContent = "";
      [asked, effect, chosen] = [wanted, null, null];
      latents.learn(found.latents);
      top = found.top;
      tokens.show(found.tokens);
      at("result").hidden = false;
      at("state").textContent = `${found.tokens.length} tokens`;
      steering.draw();
      steering.effect(null);
      if (top.length) await choose(top[0][0]);
      else latents.list(at("prompt-latents"), [], null, "No latent is active on this prompt.");
      await measure();
    } finally {
      if (mine === turn && at("state").textContent.startsWith("reading")) at("state").textContent = "";
    }
  }

  async function answer() {
    const wanted = { ...asked, latents: steering.settings(), new_tokens: Number(at("new-tokens").value) };
    at("stale").textContent = "";
    await answers.run(wanted);
  }

  // What is saved belongs together: whole answers, and of the sliders as they are.
  function session() {
    const settings = steering.settings();
    const made = answers.made();
    const { base, chat, steered } = made ? answers.all() : {};
    const same = made && JSON.stringify(made.latents) === JSON.stringify(settings);
    const measured = effect && effectOf === JSON.stringify(settings) ? effect : null;
    return {
      ...asked,
      title: at("title").value,
      latents: settings.map((one) => ({ ...one, name: latents.words(one.latent) || null })),
      new_tokens: made ? made.new_tokens : Number(at("new-tokens").value),
      answers: { base, chat, steered: same ? steered : null },
      kl: measured && measured.kl,
      kl_mean: measured && measured.mean,
    };
  }

  async function save() {
    if (steering.settings().length) await measure(); // the last move of a slider may not be measured yet
    await sessions.save(session());
  }

  async function open(name) {
    const found = await sessions.open(name);
    at("prompt").value = found.prompt;
    at("mode").value = found.mode;
    at("crosscoder").value = found.crosscoder;
    if (!at("crosscoder").value) throw new Error(`This run has no crosscoder ${found.crosscoder}.`);
    steering.replace([]);
    await read();
    steering.replace(found.latents);
    await measure();
    const saved = Object.fromEntries(Object.entries(found.answers).filter(([, text]) => text !== null));
    const made = { latents: steering.settings(), new_tokens: found.new_tokens };
    answers.show(saved, Object.keys(saved).length ? made : null);
    at("new-tokens").value = found.new_tokens || 64;
    at("title").value = found.title;
    at("stale").textContent = `as saved on ${found.saved}`;
  }

  latents.chosen((latent) => trying(() => choose(latent)));
  latents.steered((latent) => trying(() => steering.add(latent)));
  steering.changed(() => trying(measure));
  at("read").addEventListener("click", () => trying(read));
  at("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) trying(read);
  });
  at("crosscoder").addEventListener("change", () => asked && trying(read));
  at("mode").addEventListener("change", () => asked && trying(read));
  at("latent").addEventListener("change", () => trying(() => choose(Number(at("latent").value))));
  at("colour").addEventListener("change", colour);
  at("answer").addEventListener("click", () => trying(answer));
  at("stop").addEventListener("click", () => answers.stop());
  at("save").addEventListener("click", () => trying(save));
  at("sessions").addEventListener("change", (event) => {
    if (event.target.value) trying(() => open(event.target.value));
  });
  trying(sessions.list);
})();
