// The film of a video, beside its timeline.
"use strict";

class Film {
  // `follows(time)` hears where the film is, `say(text)` what is wrong, `span()` returns what a loop repeats.
  constructor(follows, say, span) {
    Object.assign(this, { follows, say, span, looping: false });
    this.element = make("video", { id: "film", controls: true, hidden: true });
    this.file = make("input", { type: "file", id: "film-file", accept: "video/*" });
    this.loops = make("button", { type: "button", id: "loop", "aria-pressed": "false", title: "key l" }, "Loop");
    this.loops.addEventListener("click", () => this.loop());
    this.file.addEventListener("change", () => this.file.files[0] && this.use(URL.createObjectURL(this.file.files[0])));
    const frame = () => {
      this.tell();
      if (!this.element.paused) requestAnimationFrame(frame);
    };
    this.element.addEventListener("play", () => requestAnimationFrame(frame));
    for (const name of ["timeupdate", "seeked"]) this.element.addEventListener(name, () => this.tell());
    this.element.addEventListener(
      "error",
      () => this.element.hasAttribute("src") && this.say("This browser cannot play the film."),
    );
  }

  // Show the film at an address; null takes away the film of another video.
  use(address) {
    this.element.pause();
    this.element.hidden = !address;
    if (!address?.startsWith("blob:")) this.file.value = "";
    if (address) this.element.src = address;
    else this.element.removeAttribute("src");
  }

  seek(time) {
    if (!this.element.hidden) this.element.currentTime = time;
  }

  playOrPause() {
    if (this.element.hidden) this.say("Choose a film first.");
    else if (this.element.paused) this.element.play();
    else this.element.pause();
  }

  loop() {
    this.looping = !this.looping;
    this.loops.setAttribute("aria-pressed", String(this.looping));
  }

  tell() {
    const time = this.element.currentTime,
      { start, end } = this.span();
    if (this.looping && (time > end || time < start - 0.5)) this.seek(start);
    this.follows(this.element.currentTime);
  }
}
