// SPDX-License-Identifier: Apache-2.0
/**
 * The LZMA decoder proper: range decoder, literal, match and repeat-match coding. LZMA2 chunks and LZMA-alone files wrap it.
 *
 * The dictionary is the output itself, so nothing is copied twice. A match that crosses the end of the room it was given is kept and
 * continued by the next call. Format facts: the LZMA specification in Igor Pavlov's public-domain LZMA SDK.
 *
 * INVARIANT: input indexes past the end read as zero (never outside of the array) and are noticed after each symbol; output is only
 * written inside of `[length, target)`; distances are checked against what was written since the dictionary was reset.
 *
 * PERF: `decode` holds the range coder in local variables and spells out each bit; ADR 0010 has the measurement (a 66 MB kernel in
 * 1.1 to 1.6 s).
 */
import { corrupt, type Output, truncated } from './output.ts';

const PROBABILITY_START = 1024;
const MODEL_BITS = 11;
const MOVE_BITS = 5;
const TOP = 0x1000000;

const STATES = 12;
const POS_STATES = 16;
const LENGTH_MIN = 2;
/** Start of each probability group in the one array. A length coder: choice, choice2, low and mid trees a position state, high tree. */
const LENGTH_LOW = 2;
const LENGTH_MID = LENGTH_LOW + POS_STATES * 8;
const LENGTH_HIGH = LENGTH_MID + POS_STATES * 8;
const LENGTH_SIZE = LENGTH_HIGH + 256;

const IS_MATCH = 0;
const IS_REP = IS_MATCH + STATES * POS_STATES;
const IS_REP0 = IS_REP + STATES;
const IS_REP1 = IS_REP0 + STATES;
const IS_REP2 = IS_REP1 + STATES;
const IS_REP0_LONG = IS_REP2 + STATES;
const DISTANCE_SLOT = IS_REP0_LONG + STATES * POS_STATES;
const DISTANCE_SPECIAL = DISTANCE_SLOT + 4 * 64;
const DISTANCE_ALIGN = DISTANCE_SPECIAL + 128;
const MATCH_LENGTH = DISTANCE_ALIGN + 16;
const REP_LENGTH = MATCH_LENGTH + LENGTH_SIZE;
const LITERAL = REP_LENGTH + LENGTH_SIZE;
const LITERAL_CODER = 0x300;

/** How `decode` ended: room used up, or the end marker of LZMA-alone was read. */
export type DecodeEnd = 'full' | 'marker';

export class LzmaDecoder {
  readonly #format: string;
  readonly #output: Output;
  #probs: Uint16Array = new Uint16Array(LITERAL);
  #lc = 0;
  #lpMask = 0;
  #pbMask = 0;
  #state = 0;
  #rep0 = 0;
  #rep1 = 0;
  #rep2 = 0;
  #rep3 = 0;
  /** Bytes of the current match still to copy. */
  #pending = 0;
  #range = 0;
  #code = 0;
  /** Output position at which the dictionary starts, and its size. */
  #dictionaryStart = 0;
  #dictionarySize = 0;
  #input: Uint8Array = new Uint8Array(0);
  #at = 0;
  #end = 0;

  constructor(format: string, output: Output) {
    this.#format = format;
    this.#output = output;
  }

  /** Forgets what was decoded before: later matches cannot reach behind this point. */
  resetDictionary(size: number): void {
    this.#dictionaryStart = this.#output.length;
    this.#dictionarySize = size;
  }

  /** New literal and position parameters from the properties byte, and a state reset. */
  setProperties(byte: number): void {
    if (byte >= 9 * 5 * 5) throw corrupt(this.#format, 'impossible LZMA properties');
    const lc = byte % 9;
    const lp = Math.floor(byte / 9) % 5;
    const pb = Math.floor(byte / 45);
    this.#lc = lc;
    this.#lpMask = (1 << lp) - 1;
    this.#pbMask = (1 << pb) - 1;
    const size = LITERAL + (LITERAL_CODER << (lc + lp));
    if (this.#probs.length !== size) this.#probs = new Uint16Array(size);
    this.resetState();
  }

  resetState(): void {
    this.#probs.fill(PROBABILITY_START);
    this.#state = 0;
    this.#rep0 = this.#rep1 = this.#rep2 = this.#rep3 = 0;
    this.#pending = 0;
  }

  /** Starts a range-coded section at `input[at..end)`. */
  startInput(input: Uint8Array, at: number, end: number): void {
    if (at + 5 > end) throw truncated(this.#format);
    if (input[at] !== 0) throw corrupt(this.#format, 'a range-coded section starts wrongly');
    this.#input = input;
    this.#range = 0xffffffff;
    this.#code = ((input[at + 1] << 24) | (input[at + 2] << 16) | (input[at + 3] << 8) | input[at + 4]) >>> 0;
    this.#at = at + 5;
    this.#end = end;
  }

  /** Where the next input byte stands. */
  get inputPosition(): number {
    return this.#at;
  }
  /** Has the range coder reached the state in which an encoder leaves it? */
  get codeIsZero(): boolean {
    return this.#code === 0;
  }
  get matchIsPending(): boolean {
    return this.#pending > 0;
  }

  /** Reads the byte that the encoder's last normalisation left, as an end of section does. */
  normalise(): void {
    if (this.#range < TOP) {
      if (this.#at >= this.#end) throw truncated(this.#format);
      this.#range = (this.#range << 8) >>> 0;
      this.#code = ((this.#code << 8) | this.#input[this.#at++]) >>> 0;
    }
  }

  /** Decodes `count` bytes into room that `Output.reserve` granted; the caller advances the output afterwards. */
  decode(count: number): DecodeEnd {
    const probs = this.#probs;
    const src = this.#input;
    const srcEnd = this.#end;
    const out = this.#output.buffer;
    const lc = this.#lc;
    const lpMask = this.#lpMask;
    const pbMask = this.#pbMask;
    const dictionaryStart = this.#dictionaryStart;
    const dictionarySize = this.#dictionarySize;
    const target = this.#output.length + count;
    let pos = this.#output.length;
    let at = this.#at;
    let range = this.#range;
    let code = this.#code;
    let state = this.#state;
    let rep0 = this.#rep0;
    let rep1 = this.#rep1;
    let rep2 = this.#rep2;
    let rep3 = this.#rep3;
    let length = this.#pending;
    let ended: DecodeEnd = 'full';
    let p = 0;
    let bound = 0;

    for (;;) {
      if (length > 0) {
        // Copy the current match as far as there is room. Source and destination may overlap: that repeats the pattern.
        const distance = rep0 + 1;
        const stop = length < target - pos ? pos + length : target;
        length -= stop - pos;
        if (distance >= stop - pos && stop - pos > 24) {
          out.copyWithin(pos, pos - distance, stop - distance);
          pos = stop;
        } else {
          for (let from = pos - distance; pos < stop; ) out[pos++] = out[from++];
        }
      }
      if (pos >= target) break;
      if (at > srcEnd) break;

      const posState = (pos - dictionaryStart) & pbMask;
      let index = IS_MATCH + (state << 4) + posState;
      if (range < TOP) {
        range = (range << 8) >>> 0;
        code = ((code << 8) | src[at++]) >>> 0;
      }
      p = probs[index];
      bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
      if (code < bound) {
        range = bound;
        probs[index] = p + ((2048 - p) >> MOVE_BITS);

        const previous = pos > dictionaryStart ? out[pos - 1] : 0;
        const coder = LITERAL + LITERAL_CODER * ((((pos - dictionaryStart) & lpMask) << lc) + (previous >> (8 - lc)));
        let symbol = 1;
        if (state >= 7) {
          let matched = out[pos - rep0 - 1];
          let offset = 0x100;
          do {
            matched <<= 1;
            const matchBit = matched & offset;
            index = coder + offset + matchBit + symbol;
            if (range < TOP) {
              range = (range << 8) >>> 0;
              code = ((code << 8) | src[at++]) >>> 0;
            }
            p = probs[index];
            bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
            if (code < bound) {
              range = bound;
              probs[index] = p + ((2048 - p) >> MOVE_BITS);
              symbol <<= 1;
              offset &= ~matchBit;
            } else {
              range = (range - bound) >>> 0;
              code = (code - bound) >>> 0;
              probs[index] = p - (p >> MOVE_BITS);
              symbol = (symbol << 1) | 1;
              offset &= matchBit;
            }
          } while (symbol < 0x100);
        } else {
          do {
            index = coder + symbol;
            if (range < TOP) {
              range = (range << 8) >>> 0;
              code = ((code << 8) | src[at++]) >>> 0;
            }
            p = probs[index];
            bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
            if (code < bound) {
              range = bound;
              probs[index] = p + ((2048 - p) >> MOVE_BITS);
              symbol <<= 1;
            } else {
              range = (range - bound) >>> 0;
              code = (code - bound) >>> 0;
              probs[index] = p - (p >> MOVE_BITS);
              symbol = (symbol << 1) | 1;
            }
          } while (symbol < 0x100);
        }
        out[pos++] = symbol;
        state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
        continue;
      }
      range = (range - bound) >>> 0;
      code = (code - bound) >>> 0;
      probs[index] = p - (p >> MOVE_BITS);

      // A match. First: a new distance, or one of the last four?
      let lengthCoder = MATCH_LENGTH;
      let isRep = false;
      index = IS_REP + state;
      if (range < TOP) {
        range = (range << 8) >>> 0;
        code = ((code << 8) | src[at++]) >>> 0;
      }
      p = probs[index];
      bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
      if (code < bound) {
        range = bound;
        probs[index] = p + ((2048 - p) >> MOVE_BITS);
      } else {
        range = (range - bound) >>> 0;
        code = (code - bound) >>> 0;
        probs[index] = p - (p >> MOVE_BITS);
        isRep = true;
        lengthCoder = REP_LENGTH;

        index = IS_REP0 + state;
        if (range < TOP) {
          range = (range << 8) >>> 0;
          code = ((code << 8) | src[at++]) >>> 0;
        }
        p = probs[index];
        bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
        if (code < bound) {
          range = bound;
          probs[index] = p + ((2048 - p) >> MOVE_BITS);

          index = IS_REP0_LONG + (state << 4) + posState;
          if (range < TOP) {
            range = (range << 8) >>> 0;
            code = ((code << 8) | src[at++]) >>> 0;
          }
          p = probs[index];
          bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
          if (code < bound) {
            // One byte at the last distance.
            range = bound;
            probs[index] = p + ((2048 - p) >> MOVE_BITS);
            if (rep0 >= pos - dictionaryStart) throw corrupt(this.#format, 'a match reaches before the start');
            out[pos] = out[pos - rep0 - 1];
            pos++;
            state = state < 7 ? 9 : 11;
            continue;
          }
          range = (range - bound) >>> 0;
          code = (code - bound) >>> 0;
          probs[index] = p - (p >> MOVE_BITS);
        } else {
          range = (range - bound) >>> 0;
          code = (code - bound) >>> 0;
          probs[index] = p - (p >> MOVE_BITS);

          index = IS_REP1 + state;
          if (range < TOP) {
            range = (range << 8) >>> 0;
            code = ((code << 8) | src[at++]) >>> 0;
          }
          p = probs[index];
          bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
          let distance = rep1;
          if (code < bound) {
            range = bound;
            probs[index] = p + ((2048 - p) >> MOVE_BITS);
          } else {
            range = (range - bound) >>> 0;
            code = (code - bound) >>> 0;
            probs[index] = p - (p >> MOVE_BITS);

            index = IS_REP2 + state;
            if (range < TOP) {
              range = (range << 8) >>> 0;
              code = ((code << 8) | src[at++]) >>> 0;
            }
            p = probs[index];
            bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
            if (code < bound) {
              range = bound;
              probs[index] = p + ((2048 - p) >> MOVE_BITS);
              distance = rep2;
            } else {
              range = (range - bound) >>> 0;
              code = (code - bound) >>> 0;
              probs[index] = p - (p >> MOVE_BITS);
              distance = rep3;
              rep3 = rep2;
            }
            rep2 = rep1;
          }
          rep1 = rep0;
          rep0 = distance;
        }
      }

      // Length: which of three trees, then its bits.
      let tree = lengthCoder + LENGTH_LOW + (posState << 3);
      let treeBits = 3;
      let base = LENGTH_MIN;
      index = lengthCoder;
      if (range < TOP) {
        range = (range << 8) >>> 0;
        code = ((code << 8) | src[at++]) >>> 0;
      }
      p = probs[index];
      bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
      if (code < bound) {
        range = bound;
        probs[index] = p + ((2048 - p) >> MOVE_BITS);
      } else {
        range = (range - bound) >>> 0;
        code = (code - bound) >>> 0;
        probs[index] = p - (p >> MOVE_BITS);
        index = lengthCoder + 1;
        if (range < TOP) {
          range = (range << 8) >>> 0;
          code = ((code << 8) | src[at++]) >>> 0;
        }
        p = probs[index];
        bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
        if (code < bound) {
          range = bound;
          probs[index] = p + ((2048 - p) >> MOVE_BITS);
          tree = lengthCoder + LENGTH_MID + (posState << 3);
          base = LENGTH_MIN + 8;
        } else {
          range = (range - bound) >>> 0;
          code = (code - bound) >>> 0;
          probs[index] = p - (p >> MOVE_BITS);
          tree = lengthCoder + LENGTH_HIGH;
          treeBits = 8;
          base = LENGTH_MIN + 16;
        }
      }
      let symbol = 1;
      for (let left = treeBits; left > 0; left--) {
        index = tree + symbol;
        if (range < TOP) {
          range = (range << 8) >>> 0;
          code = ((code << 8) | src[at++]) >>> 0;
        }
        p = probs[index];
        bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
        if (code < bound) {
          range = bound;
          probs[index] = p + ((2048 - p) >> MOVE_BITS);
          symbol <<= 1;
        } else {
          range = (range - bound) >>> 0;
          code = (code - bound) >>> 0;
          probs[index] = p - (p >> MOVE_BITS);
          symbol = (symbol << 1) | 1;
        }
      }
      length = base + symbol - (1 << treeBits);

      if (isRep) {
        state = state < 7 ? 8 : 11;
      } else {
        state = state < 7 ? 7 : 10;
        rep3 = rep2;
        rep2 = rep1;
        rep1 = rep0;

        // Distance: a slot of six bits gives the highest bits and how many follow.
        tree = DISTANCE_SLOT + ((length < 6 ? length - LENGTH_MIN : 3) << 6);
        symbol = 1;
        do {
          index = tree + symbol;
          if (range < TOP) {
            range = (range << 8) >>> 0;
            code = ((code << 8) | src[at++]) >>> 0;
          }
          p = probs[index];
          bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
          if (code < bound) {
            range = bound;
            probs[index] = p + ((2048 - p) >> MOVE_BITS);
            symbol <<= 1;
          } else {
            range = (range - bound) >>> 0;
            code = (code - bound) >>> 0;
            probs[index] = p - (p >> MOVE_BITS);
            symbol = (symbol << 1) | 1;
          }
        } while (symbol < 64);
        const slot = symbol - 64;
        if (slot < 4) {
          rep0 = slot;
        } else {
          let bits = (slot >> 1) - 1;
          rep0 = ((2 | (slot & 1)) << bits) >>> 0;
          if (slot < 14) {
            tree = DISTANCE_SPECIAL + rep0 - slot;
          } else {
            // Bits between the slot's and the last four have even odds.
            let direct = 0;
            for (bits -= 4; bits > 0; bits--) {
              if (range < TOP) {
                range = (range << 8) >>> 0;
                code = ((code << 8) | src[at++]) >>> 0;
              }
              range >>>= 1;
              if (code >= range) {
                code = (code - range) >>> 0;
                direct = (direct << 1) | 1;
              } else {
                direct <<= 1;
              }
            }
            rep0 = (rep0 + (direct << 4)) >>> 0;
            tree = DISTANCE_ALIGN;
            bits = 4;
          }
          symbol = 1;
          for (let bit = 0; bit < bits; bit++) {
            index = tree + symbol;
            if (range < TOP) {
              range = (range << 8) >>> 0;
              code = ((code << 8) | src[at++]) >>> 0;
            }
            p = probs[index];
            bound = Math.imul(range >>> MODEL_BITS, p) >>> 0;
            if (code < bound) {
              range = bound;
              probs[index] = p + ((2048 - p) >> MOVE_BITS);
              symbol <<= 1;
            } else {
              range = (range - bound) >>> 0;
              code = (code - bound) >>> 0;
              probs[index] = p - (p >> MOVE_BITS);
              symbol = (symbol << 1) | 1;
              rep0 = (rep0 + (1 << bit)) >>> 0;
            }
          }
          if (rep0 === 0xffffffff) {
            length = 0;
            ended = 'marker';
            break;
          }
        }
      }
      if (at > srcEnd) break;
      if (rep0 >= pos - dictionaryStart || rep0 >= dictionarySize) throw corrupt(this.#format, 'a match reaches before the start');
    }

    if (at > srcEnd) throw truncated(this.#format);
    this.#at = at;
    this.#range = range;
    this.#code = code;
    this.#state = state;
    this.#rep0 = rep0;
    this.#rep1 = rep1;
    this.#rep2 = rep2;
    this.#rep3 = rep3;
    this.#pending = length;
    if (ended === 'marker') this.#output.advance(pos - this.#output.length);
    return ended;
  }
}
