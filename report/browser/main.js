"use strict";
// Puts the page together: what the address says (#crosscoder/latent) is what is shown.

(async () => {
  const { element, load } = crossdiff;
  const at = (id) => document.getElementById(id);
  let index = null;
  let shownTraining = null;
  let shownLatent = null;
  let turn = 0; // of what was asked for last: a slow answer to an earlier wish is dropped

  function say(text) {
    at("message").textContent = text;
    at("message").hidden = !text;
  }

  // {training, latent} of the address; latent is null without one. Says what is wrong with a bad one.
  function address() {
    const [name, number] = decodeURIComponent(location.hash.slice(1)).split("/");
    const training = name ? index.trainings.find((one) => name === one.link || name === one.name) : index.trainings[0];
    if (!training) {
      say(`No crosscoder ${name} here: ${index.trainings.map((one) => one.link).join(", ")}.`);
      return { training: index.trainings[0], latent: null };
    }
    if (number === undefined || number === "") return { training, latent: null };
    if (/^\d+$/.test(number) && Number(number) < training.latents) return { training, latent: Number(number) };
    say(`No latent ${number} in ${training.link}: 0 to ${training.latents - 1}.`);
    return { training, latent: null };
  }

  function go(training, latent) {
    location.hash = latent === null ? training.link : `${training.link}/${latent}`;
  }

  function cautions(piece) {
    const many = piece.stale.length;
    at("stale").hidden = !many;
    at("stale").textContent = many
      ? `Stale names in the catalogue, not used: ${piece.stale.map((entry) => `${entry.name} (latent ${entry.latent} of weights ${entry.weights})`).join(", ")}. This training's weights are ${piece.weights}.`
      : "";
  }

  function sortChoices(sorting) {
    const choices = crossdiff.table.columns().map((column) => element("option", { value: column.key, selected: column.key === sorting.key }, column.label));
    at("sort").replaceChildren(...choices);
    at("direction").textContent = sorting.ascending ? "↑ ascending" : "↓ descending";
  }

  // Previous and next: in the order that the table has now.
  function neighbours() {
    for (const [id, step] of [["previous", -1], ["next", 1]]) {
      const other = crossdiff.table.beside(shownLatent, step);
      at(id).disabled = other === undefined;
      at(id).onclick = () => go(shownTraining, other);
    }
  }

  async function route() {
    const mine = ++turn;
    say("");
    const { training, latent } = address();
    try {
      const piece = await load(`${training.name}/table`);
      if (mine !== turn) return;
      document.body.dataset.view = latent === null ? "table" : "latent";
      at("training").value = training.name;
      if (shownTraining !== training) {
        crossdiff.table.show(at("table"), training, piece);
        cautions(piece);
        shownTraining = training;
      }
      document.title = `${training.link}${latent === null ? "" : `/${latent}`}: latents of ${index.pair}`;
      if (latent !== null) {
        await crossdiff.latent.show(at("latent"), training, index.trainings, piece, latent, index.chunk);
        if (mine !== turn) return;
        at("latent-view").scrollTop = 0;
        at("latent").querySelector("h2").focus({ preventScroll: true });
      }
      crossdiff.table.resize();
      crossdiff.table.mark(latent);
      shownLatent = latent;
      neighbours();
      document.body.dataset.ready = location.hash || "#";
    } catch (error) {
      say(error.message);
    }
  }

  function listen() {
    const table = crossdiff.table;
    table.opened((latent) => go(shownTraining, latent));
    table.changed((shown, all, sorting) => {
      at("count").textContent = shown === all ? `${all.toLocaleString("en")} latents` : `${shown.toLocaleString("en")} of ${all.toLocaleString("en")} latents`;
      sortChoices(sorting);
      neighbours();
    });
    at("training").addEventListener("change", (event) => go(index.trainings.find((one) => one.name === event.target.value), null));
    at("search").addEventListener("input", (event) => table.search(event.target.value));
    at("show").addEventListener("change", (event) => table.filter(event.target.value));
    at("sort").addEventListener("change", (event) => table.sort(event.target.value, at("direction").textContent.startsWith("↑")));
    at("direction").addEventListener("click", () => table.sort(at("sort").value, !at("direction").textContent.startsWith("↑")));
    at("close").addEventListener("click", () => {
      go(shownTraining, null);
      table.focus();
    });
    window.addEventListener("hashchange", route);
    window.addEventListener("resize", table.resize);
    document.addEventListener("keydown", (event) => {
      if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") at("close").click();
      else if (event.key === "/") at("search").focus();
      else if (event.key === "t") table.focus();
      else if (event.key === "j") at("next").click();
      else if (event.key === "k") at("previous").click();
      else return;
      event.preventDefault();
    });
  }

  try {
    index = await load("index");
    at("training").replaceChildren(...index.trainings.map((one) => element("option", { value: one.name }, `${one.crosscoder}, seed ${one.seed}`)));
    listen();
    await route();
  } catch (error) {
    say(error.message);
  }
})();
