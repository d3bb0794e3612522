"use strict";
// Loads the pieces of data. From disk a page may not fetch files, but it may run scripts. So each piece is a
// script that calls crossdiff.receive.

const crossdiff = (() => {
  const waiting = new Map(); // name of a piece -> what takes its content
  const pieces = new Map(); // name of a piece -> promise of its value

  async function unpack(packed) {
    const text = atob(packed);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  function receive(name, packed) {
    waiting.get(name)(packed);
    waiting.delete(name);
  }

  // A promise of a piece's value; it is loaded once.
  function load(name) {
    if (!pieces.has(name)) {
      const piece = new Promise((resolve, reject) => {
        waiting.set(name, (packed) => unpack(packed).then(resolve, reject));
        const script = document.createElement("script");
        script.src = `files/${name}.js`;
        const problem = new Error(`files/${name}.js could not be read. Was the folder moved without it?`);
        script.onerror = () => reject(problem);
        document.head.append(script);
      });
      pieces.set(name, piece);
      piece.catch(() => pieces.delete(name));
    }
    return pieces.get(name);
  }

  // An element with properties, classes and children. Strings become text: nothing from the data is ever read
  // as HTML.
  function element(tag, properties = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // A number for people; an en dash where there is none.
  function shown(value, digits = 2) {
    return value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
  }

  return { receive, load, element, shown };
})();
