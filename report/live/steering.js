"use strict";
// Sliders for a few latents, and what they do to the chat model's predictions over the prompt.

crossdiff.steering = (() => {
  const { element, shown } = crossdiff;
  const FURTHEST = 4; // largest activations, of a slider; the number next to it may go beyond
  const WAIT = 150; // ms after the last move of a slider
  const at = (id) => document.getElementById(id);
  let settings = []; // {latent, change, strength}
  let onChange = () => {};
  let timer = null;

  function moved() {
    clearTimeout(timer);
    timer = setTimeout(() => onChange(), WAIT);
  }

  function slider(setting) {
    const { latent } = setting;
    const label = (what) => `${what} of latent ${latent}`;
    const range = element("input", { type: "range", min: -FURTHEST, max: FURTHEST, step: 0.25 });
    const number = element("input", { type: "number", step: 0.25, value: setting.strength });
    const ablate = element("input", { type: "checkbox", checked: setting.change === "ablate" });
    range.value = setting.strength;
    range.setAttribute("aria-label", label("strength"));
    number.setAttribute("aria-label", label("strength as a number"));
    const set = (strength) => {
      if (!Number.isFinite(strength)) return;
      setting.strength = strength;
      moved();
    };
    const lock = () => (range.disabled = number.disabled = ablate.checked);
    range.addEventListener("input", () => set(Number((number.value = range.value))));
    number.addEventListener("input", () => set(Number((range.value = number.value))));
    ablate.addEventListener("change", () => {
      setting.change = ablate.checked ? "ablate" : "add";
      lock();
      moved();
    });
    lock();
    const remove = element("button", { type: "button", title: `remove latent ${latent}` }, "×");
    remove.setAttribute("aria-label", `remove latent ${latent}`);
    remove.addEventListener("click", () => {
      settings = settings.filter((other) => other !== setting);
      draw();
      moved();
    });
    const name = crossdiff.latents.words(latent);
    const title = element("b", {}, String(latent));
    const what = element("span", { className: "what" }, title, ` ${name} `);
    what.append( ...crossdiff.latents.page(latent));
    const made = element("div", { className: "slider" }, what, range, number);
    made.append(element("label", {}, ablate, " ablate"), remove);
    made.dataset.latent = latent;
    return made;
  }

  function draw() {
    const none = element("p", { className: "soft" }, "Take a latent from the lists above with “steer”.");
    at("sliders").replaceChildren(...(settings.length ? settings.map(slider) : [none]));
  }

  function add(latent) {
    if (settings.some((setting) => setting.latent === latent)) return;
    settings.push({ latent, change: "add", strength: 1 });
    draw();
    moved();
  }

  function list(title, rows) {
    const percent = (value) => `${shown(value * 100, 1)} %`;
    const item = ([token, before, after]) =>
      element("li", {}, element("code", {}, token), ` ${percent(before)} → ${percent(after)}`);
    const items = rows.length ? rows.map(item) : [element("li", { className: "soft" }, "none")];
    return [element("h3", {}, title), element("ul", { className: "moved" }, ...items)];
  }

  // Show what the server said of the settings; null while there are none.
  function effect(found) {
    if (!found) return at("effect").replaceChildren();
    const most = found.kl.reduce((best, value, place) => (value > found.kl[best] ? place : best), 0);
    const token = `“${crossdiff.tokens.text(most)}”`;
    const sentence =
      `KL(chat ‖ steered) is ${shown(found.mean, 3)} nats per steered token of the prompt, ` +
      `${shown(found.last, 3)} at its last one, and largest after token ${most} ${token}: ` +
      `${shown(found.kl[most], 3)}.`;
    return at("effect").replaceChildren(
      element("p", { id: "kl" }, sentence),
      ...list("Promoted as the next token", found.promoted),
      ...list("Suppressed", found.suppressed),
    );
  }

  return {
    add,
    draw,
    effect,
    // The settings as the server takes them.
    settings: () =>
      settings.map((one) => ({ ...one, strength: one.change === "ablate" ? null : one.strength })),
    replace: (given) => {
      settings = given.map(({ latent, change, strength }) => ({ latent, change, strength: strength ?? 1 }));
      draw();
    },
    changed: (listener) => (onChange = listener),
  };
})();
