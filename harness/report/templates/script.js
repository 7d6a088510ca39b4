"use strict";
(() => {
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const details = target?.closest("details");
    if (details) {
      details.open = true;
      target.scrollIntoView();
    }
  };
  addEventListener("hashchange", open);
  open();

  // A strip is a list of which one mark is chosen, by a key or by a tap; below it stands what its case came to.
  const choosable = (sweep, number) => {
    const strip = sweep.querySelector(".strip");
    const marks = strip.children;
    const cases = sweep.querySelector(".cases").children;
    const told = sweep.querySelector(".told p");
    const command = sweep.querySelector(".command span");
    let chosen = Number(strip.dataset.shown);

    const choose = (at) => {
      marks[chosen].removeAttribute("id");
      marks[chosen].setAttribute("aria-selected", "false");
      chosen = Math.min(Math.max(at, 0), marks.length - 1);
      marks[chosen].id = `chosen-${number}`;
      marks[chosen].setAttribute("aria-selected", "true");
      told.className = marks[chosen].className;
      told.replaceChildren(...cases[chosen].cloneNode(true).childNodes);
      command.textContent = told.querySelector("code").textContent;
    };
    const row = () => {
      const next = [...marks].findIndex((mark) => mark.offsetTop > marks[0].offsetTop);
      return next > 0 ? next : marks.length;
    };
    const moves = {
      ArrowLeft: () => chosen - 1,
      ArrowRight: () => chosen + 1,
      ArrowUp: () => (chosen < row() ? chosen : chosen - row()),
      ArrowDown: () => (chosen + row() < marks.length ? chosen + row() : chosen),
      Home: () => 0,
      End: () => marks.length - 1,
    };

    strip.addEventListener("keydown", (event) => {
      if (Object.hasOwn(moves, event.key) && !event.ctrlKey && !event.altKey && !event.metaKey) {
        event.preventDefault();
        choose(moves[event.key]());
        marks[chosen].scrollIntoView({ block: "nearest" });
      }
    });
    strip.addEventListener("click", (event) => {
      if (event.target !== strip) {
        choose([...marks].indexOf(event.target));
      }
    });
    for (const mark of marks) {
      mark.setAttribute("role", "option");
    }
    strip.setAttribute("role", "listbox");
    strip.setAttribute("aria-activedescendant", `chosen-${number}`);
    strip.tabIndex = 0;
    choose(chosen);
  };
  document.querySelectorAll(".sweep").forEach(choosable);
})();
