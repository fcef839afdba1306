// Conveniences of the pages. Everything works without them.

const zone = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const localise = (within) => {
  for (const time of within.querySelectorAll("time[datetime]")) {
    const local = zone.format(new Date(time.dateTime));
    if (!("keep" in time.dataset)) time.textContent = local;
    time.title = `${local} (${time.title})`;
  }
};
localise(document);

// Browsers give the clipboard to pages over https alone: elsewhere the text is selected, and copied as by the keyboard.
const copy = async (code) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(code.textContent);
  const range = document.createRange();
  range.selectNodeContents(code);
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  if (!document.execCommand("copy")) throw new Error("not copied");
  getSelection().removeAllRanges();
};

for (const button of document.querySelectorAll("button[data-copy]")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.textContent = await copy(button.parentElement.querySelector("code")).then(() => "Copied", () => "Selected");
    setTimeout(() => { button.textContent = label; }, 1500);
  });
}

// A drawing with links is one stop of the Tab key, within which arrows lead on.
for (const drawing of document.querySelectorAll(".plot > svg")) {
  const links = [...drawing.querySelectorAll("a[href]")];
  if (links.length < 2) continue;
  const stop = (chosen) => links.forEach((link) => link.setAttribute("tabindex", link === chosen ? "0" : "-1"));
  stop(links.find((link) => link.hasAttribute("aria-current")) ?? links[0]);
  const around = drawing.parentElement; // a drawing that listens itself would be one more stop
  around.tabIndex = -1;
  around.addEventListener("focusin", (event) => { if (links.includes(event.target)) stop(event.target); });
  around.addEventListener("keydown", (event) => {
    const at = links.indexOf(event.target.closest("a"));
    const last = links.length - 1;
    const [before, after] = [Math.max(0, at - 1), Math.min(last, at + 1)];
    const to = { ArrowRight: after, ArrowDown: after, ArrowLeft: before, ArrowUp: before, Home: 0, End: last }[event.key];
    if (at < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    links[to].focus();
  });
}

// Sections with a heading each become tabs, by the keys that screen readers expect.
for (const tabs of document.querySelectorAll("[data-tabs]")) {
  const panels = [...tabs.querySelectorAll(":scope > section")];
  const list = document.createElement("div");
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", tabs.dataset.tabs);
  const buttons = panels.map((panel, n) => {
    const heading = panel.querySelector("h3");
    const button = document.createElement("button");
    button.type = "button";
    button.id = `${panel.id}-tab`;
    button.textContent = heading.textContent;
    button.setAttribute("role", "tab");
    button.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", button.id);
    heading.hidden = true;
    button.addEventListener("click", () => choose(n));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step) choose((n + step + panels.length) % panels.length, true);
    });
    return button;
  });
  const choose = (chosen, focus = false) => {
    buttons.forEach((button, n) => {
      button.setAttribute("aria-selected", String(n === chosen));
      button.tabIndex = n === chosen ? 0 : -1;
      panels[n].hidden = n !== chosen;
    });
    if (focus) buttons[chosen].focus();
  };
  list.append(...buttons);
  tabs.prepend(list);
  choose(Math.max(0, panels.findIndex((panel) => `#${panel.id}` === location.hash)));
}

for (const field of document.querySelectorAll("[data-submit]")) {
  field.addEventListener("change", () => field.form.requestSubmit());
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) return;
  const search = document.querySelector(".find input");
  if (search) { event.preventDefault(); search.focus(); }
});

// What shows work under way is read again while it does.
const refresh = async () => {
  const shown = document.querySelector("#live[data-refresh]");
  if (!shown) return;
  const answer = document.hidden ? null : await fetch(location.href).catch(() => null);
  if (answer?.ok) {
    const read = new DOMParser().parseFromString(await answer.text(), "text/html").querySelector("#live");
    if (!read) return;
    localise(read);
    shown.replaceWith(read);
  }
  setTimeout(refresh, 2000);
};
setTimeout(refresh, 2000);
