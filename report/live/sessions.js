"use strict";
// Saves what the page shows, and opens what was saved.

crossdiff.sessions = (() => {
  const { element } = crossdiff;
  const at = (id) => document.getElementById(id);

  async function list() {
    const found = await crossdiff.api.ask("sessions");
    const choice = ({ name, title, prompt }) =>
      element("option", { value: name }, `${name}: ${title || prompt}`);
    const none = element("option", { value: "" }, `${found.length} saved`);
    at("sessions").replaceChildren(none, ...found.map(choice));
    at("opening").hidden = !found.length;
  }

  async function save(session) {
    const { file } = await crossdiff.api.ask("sessions", session);
    at("saved-as").textContent = `saved as ${file}`;
    await list();
  }

  return { list, save, open: (name) => crossdiff.api.ask(`sessions/${encodeURIComponent(name)}`) };
})();
