"use strict";
// The tokens of the prompt, coloured by a latent or by the KL of steering.

crossdiff.tokens = (() => {
  const { element, shown } = crossdiff;
  const PARTS = ["", "template: header", "template: end of turn"];
  const at = (id) => document.getElementById(id);
  let tokens = [];
  let pinned = null;
  let chosen = null;

  function describe(span, place, text, share) {
    const token = tokens[place];
    const outside = token.counts ? "" : "no crosscoder was trained on this token";
    span.title = [text, PARTS[token.template], outside].filter(Boolean).join("; ");
    span.className = [
      share > 0 ? "active" : "",
      token.template ? "template" : "",
      token.counts ? "" : "left-out",
      place === pinned ? "pinned" : "",
    ].join(" ").trim();
    span.style.setProperty("--strength", share.toFixed(3));
  }

  // Colour the tokens by ``values``; ``share`` gives a value's place between 0 and 1.
  function colour(values, share, say) {
    [...at("tokens").children].forEach((span, place) => {
      const value = values[place] || 0;
      describe(span, place, value > 0 ? say(value) : "silent", value > 0 ? share(value) : 0);
    });
  }

  function tell(place) {
    const span = at("tokens").children[place];
    at("readout").textContent = `token ${place} “${span.textContent}”: ${span.title}`;
    const nothing = tokens[place].counts
      ? "No latent is active here."
      : "Tokens like this were left out of training.";
    crossdiff.latents.list(at("token-latents"), tokens[place].top, chosen, nothing);
    at("of-token").textContent = `Top latents of token ${place} “${span.textContent}”`;
  }

  function pin(place) {
    const spans = at("tokens").children;
    if (pinned !== null && spans[pinned]) spans[pinned].classList.remove("pinned");
    for (const span of spans) span.tabIndex = -1;
    pinned = place;
    spans[place].classList.add("pinned");
    spans[place].tabIndex = 0;
    tell(place);
  }

  function show(found) {
    tokens = found;
    pinned = null;
    const spans = tokens.map((token, place) => element("span", { tabIndex: place ? -1 : 0 }, token.text));
    at("tokens").replaceChildren(...spans);
    at("readout").textContent = "Point at a token, or tap it, to read its activation.";
    at("of-token").textContent = "Top latents of a token";
    crossdiff.latents.list(at("token-latents"), [], null, "Point at a token. A click keeps it.");
  }

  // Which latent is chosen, so that its buttons are pressed.
  function choose(latent) {
    chosen = latent;
    if (pinned !== null) tell(pinned);
  }

  const place = (event) => {
    const span = event.target.closest("#tokens span");
    return span ? [...at("tokens").children].indexOf(span) : -1;
  };
  at("tokens").addEventListener("mouseover", (event) => {
    if (place(event) >= 0 && pinned === null) tell(place(event));
  });
  at("tokens").addEventListener("click", (event) => place(event) >= 0 && pin(place(event)));
  at("tokens").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Enter: 0 }[event.key];
    if (step === undefined || place(event) < 0) return;
    event.preventDefault();
    const next = Math.min(Math.max(place(event) + step, 0), tokens.length - 1);
    pin(next);
    at("tokens").children[next].focus();
  });

  return { show, colour, choose, text: (at) => tokens[at].text, count: () => tokens.length };
})();
