// Pages that are opened from a folder may not start workers, and the search runs in one: here it runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = Object.assign(document.createElement("iframe"), { hidden: true });
      window.addEventListener("message", (event) => {
        if (event.source !== this.frame.contentWindow) return;
        if (event.data === "frame worker is ready") {
          const waiting = this.waiting;
          this.waiting = null;
          waiting.forEach((data) => this.postMessage(data));
          return;
        }
        const message = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(message);
        if (this.onmessage) this.onmessage(message);
      });
      const script = JSON.stringify(new URL(url, document.baseURI).href);
      this.frame.srcdoc = `<script>
        const above = window.parent;
        window.postMessage = (data) => above.postMessage(data, "*");
        document.head.append(Object.assign(document.createElement("script"), {
          src: ${script}, onload: () => above.postMessage("frame worker is ready", "*"),
        }));
      </script>`;
      (document.body || document.documentElement).append(this.frame);
    }
    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else window.postMessage.call(this.frame.contentWindow, data, "*"); // its own one sends to this page
    }
    terminate() {
      this.frame.remove();
    }
  };
}
