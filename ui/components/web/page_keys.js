// Keys that press the page's own buttons: arrows and the page keys of a presenter's remote control.

let names; // { ArrowRight: "key of a container with a button", ... }, as the last page said

const OWN = "input, textarea, select, [contenteditable], [role='slider'], [role='radio'], [role='combobox'], [role='tab']";

export default function listen(component) {
  const mine = JSON.parse(new TextDecoder().decode(component.data));
  if (names === undefined) document.addEventListener("keydown", press);
  names = mine;
  return () => { if (names === mine) names = null; };
}

function press(event) {
  if (!names?.[event.key] || event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
  if (event.target.closest?.(OWN) && !event.key.startsWith("Page")) return; // there the arrows move the control
  if (event.target.closest?.("textarea, input[type='text']")) return;
  const button = names[event.key].map((key) => document.querySelector(`.st-key-${key} button:not(:disabled)`)).find(Boolean);
  if (!button) return;
  event.preventDefault();
  button.click();
}
