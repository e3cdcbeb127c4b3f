// A button that copies this page's address; where the clipboard is closed (http on another machine) it shows the link.

export default function draw(component) {
  const { label } = JSON.parse(new TextDecoder().decode(component.data));
  const parent = component.parentElement;
  let button = parent.querySelector(".lab-copy");
  if (!button) {
    button = Object.assign(document.createElement("button"), { className: "lab-copy", type: "button", textContent: label });
    button.addEventListener("click", () => copy(button, label));
    parent.append(button);
  }
}

async function copy(button, label) {
  const link = window.location.href;
  try {
    await navigator.clipboard.writeText(link);
    button.textContent = "Link copied";
  } catch {
    window.prompt("Copy this link", link);
  }
  setTimeout(() => { button.textContent = label; }, 2000);
}
