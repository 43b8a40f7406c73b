"""CUDA source, first half: `intersection`, `relief` and `noise` line by line for one ray.

The torch functions of those names are the reference; a test holds the two together.
"""

SOURCE = r"""
struct V { float x, y, z; };

__device__ inline V make_v(float x, float y, float z) { V r; r.x = x; r.y = y; r.z = z; return r; }
__device__ inline V load_v(const float* p) { return make_v(p[0], p[1], p[2]); }
__device__ inline float dot(V a, V b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
__device__ inline V along(V o, float t, V d) {
  return make_v(o.x + t * d.x, o.y + t * d.y, o.z + t * d.z);
}
__device__ inline V minus(V a, V b) { return make_v(a.x - b.x, a.y - b.y, a.z - b.z); }
__device__ inline V times(V a, V b) { return make_v(a.x * b.x, a.y * b.y, a.z * b.z); }
__device__ inline V unit(V a) {
  float s = 1.0f / sqrtf(fmaxf(dot(a, a), 1e-30f));
  return make_v(a.x * s, a.y * s, a.z * s);
}
// rows of a 3x3 matrix times (x, y, 1)
__device__ inline V matvec(const float* m, float x, float y) {
  return make_v(m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5], m[6] * x + m[7] * y + m[8]);
}
__device__ inline float nonzero(float v, float least) {
  return fabsf(v) < least ? (v < 0.0f ? -least : least) : v;
}
__device__ inline float clamp01(float v) { return fminf(fmaxf(v, 0.0f), 1.0f); }

// ---- noise

__device__ inline unsigned hash_cells(int i, int j, int seed) {
  unsigned h = (unsigned)i * 374761393u + (unsigned)j * 668265263u + (unsigned)seed * 1013904223u;
  h = (h ^ (h >> 15)) * (unsigned)(-2048144789);
  h = (h ^ (h >> 13)) * (unsigned)(-1028477379);
  return (h ^ (h >> 16)) & 0x7FFFFFFFu;
}
__device__ inline unsigned remix(unsigned h, int salt) {
  h = (h + (unsigned)(salt * 97531)) * 747796405u;
  return (h ^ (h >> 14)) & 0x7FFFFFFFu;
}
__device__ inline float unit_from_hash(unsigned h) { return (float)(h >> 8) * (1.0f / 8388608.0f); }
__device__ inline float fade5(float f) { return f * f * f * (f * (f * 6.0f - 15.0f) + 10.0f); }
__device__ float value_noise(float u, float v, int seed) {
  float iu = floorf(u), iv = floorf(v);
  float fu = fade5(u - iu), fv = fade5(v - iv);
  int i = (int)iu, j = (int)iv;
  float n00 = unit_from_hash(hash_cells(i, j, seed));
  float n10 = unit_from_hash(hash_cells(i + 1, j, seed));
  float n01 = unit_from_hash(hash_cells(i, j + 1, seed));
  float n11 = unit_from_hash(hash_cells(i + 1, j + 1, seed));
  float low = n00 + (n10 - n00) * fu, high = n01 + (n11 - n01) * fu;
  return low + (high - low) * fv;
}
__device__ float solid_noise(float x, float y, float z, int seed) {
  float ix = floorf(x), iy = floorf(y), iz = floorf(z);
  float fx = fade5(x - ix), fy = fade5(y - iy), fz = fade5(z - iz);
  int i = (int)ix, j = (int)iy, k = (int)iz;
  float layers[2];
  for (int dz = 0; dz < 2; ++dz) {
    int layer = (int)((unsigned)seed + (unsigned)(k + dz) * 1597u);
    float n00 = unit_from_hash(hash_cells(i, j, layer));
    float n10 = unit_from_hash(hash_cells(i + 1, j, layer));
    float n01 = unit_from_hash(hash_cells(i, j + 1, layer));
    float n11 = unit_from_hash(hash_cells(i + 1, j + 1, layer));
    float low = n00 + (n10 - n00) * fx, high = n01 + (n11 - n01) * fx;
    layers[dz] = low + (high - low) * fy;
  }
  return layers[0] + (layers[1] - layers[0]) * fz;
}

// ---- intersection

struct Interval { float near, far; };

__device__ Interval convex_interval(V o, V d, V q, float a, float b) {
  float shift = -dot(o, d) / fmaxf(dot(d, d), 1e-20f);
  V p = along(o, shift, d);
  float ix = 1.0f / nonzero(d.x, 1e-9f), iy = 1.0f / nonzero(d.y, 1e-9f);
  float iz = 1.0f / nonzero(d.z, 1e-9f);
  float ax = (-1.0f - p.x) * ix, bx = (1.0f - p.x) * ix;
  float ay = (-1.0f - p.y) * iy, by = (1.0f - p.y) * iy;
  float az = (-1.0f - p.z) * iz, bz = (1.0f - p.z) * iz;
  Interval r;
  r.near = fmaxf(fmaxf(fminf(ax, bx), fminf(ay, by)), fminf(az, bz));
  r.far = fminf(fminf(fmaxf(ax, bx), fmaxf(ay, by)), fmaxf(az, bz));
  if (q.x + q.y + q.z > 0.0f) {
    float width = a + b * p.z, slope = b * d.z;
    V square = times(q, d);
    float A = nonzero(dot(square, d) - slope * slope, 1e-10f);
    float B = dot(square, p) - width * slope;
    float C = q.x * p.x * p.x + q.y * p.y * p.y + q.z * p.z * p.z - width * width;
    float D = B * B - A * C;
    float root = sqrtf(fmaxf(D, 0.0f));
    float s = nonzero(-(B + (B < 0.0f ? -root : root)), 1e-20f);
    float first = s / A, second = C / s;
    float low = fminf(first, second), high = fmaxf(first, second);
    if (A < 0.0f) {
      float was_low = low;
      low = slope > 0.0f ? high : -1e6f;
      high = slope > 0.0f ? 1e6f : was_low;
    }
    r.near = fmaxf(r.near, low);
    r.far = (D < 0.0f && A >= 0.0f) ? r.near - 1.0f : fminf(r.far, high);
  }
  r.near += shift;
  r.far += shift;
  return r;
}

// first t > t_min into the body's solid part, or HUGE
__device__ float entry(V o, V d, const float* body, float t_min) {
  Interval in = convex_interval(o, d, load_v(body + QUADRIC), body[TAPER], body[TAPER + 1]);
  if (!(in.near < in.far) || in.far <= t_min) return HUGE;
  float t = in.near;
  if (body[CUT_CENTRE] < 5000.0f) {
    V inverse = load_v(body + CUT_INVERSE);
    V oc = times(minus(o, load_v(body + CUT_CENTRE)), inverse), dc = times(d, inverse);
    Interval cut = convex_interval(oc, dc, load_v(body + CUT_QUADRIC), 1.0f, 0.0f);
    float start = fmaxf(in.near, t_min);
    if (cut.near < cut.far && cut.near <= start && cut.far > in.near) t = cut.far;
  }
  return (t < in.far && t > t_min) ? t : HUGE;
}

__device__ float box_exit(V o, V d, int* wall) {
  float oo[3] = {o.x, o.y, o.z}, dd[3] = {d.x, d.y, d.z};
  float best = HUGE;
  for (int axis = 0; axis < 3; ++axis) {
    float side = dd[axis] < 0.0f ? -1.0f : 1.0f;
    float t = (side - oo[axis]) / nonzero(dd[axis], 1e-9f);
    if (t < best) { best = t; *wall = 2 * axis + (side > 0.0f ? 1 : 0); }
  }
  return best;
}

// ---- relief: shape is power, amplitude, frequency, seed

struct Shape { float power, amplitude, frequency; int seed; };

__device__ __noinline__ float height(V p, Shape s) {
  float x = fmaxf(fabsf(p.x), 1e-6f), y = fmaxf(fabsf(p.y), 1e-6f), z = fmaxf(fabsf(p.z), 1e-6f);
  float largest = fmaxf(fmaxf(x, y), z);
  float total = powf(x / largest, s.power) + powf(y / largest, s.power);
  total += powf(z / largest, s.power);
  float norm = largest * powf(total, 1.0f / s.power);
  float fx = p.x * s.frequency, fy = p.y * s.frequency, fz = p.z * s.frequency;
  float coarse = solid_noise(fx, fy, fz, s.seed);
  float fine = solid_noise(2.3f * fx + 5.1f, 2.3f * fy, 2.3f * fz, s.seed + 3);
  return norm - 1.0f + s.amplitude * (1.0f - 0.7f * coarse - 0.3f * fine);
}

__device__ float march(V o, V d, Shape s) {
  Interval in = convex_interval(o, d, make_v(0.0f, 0.0f, 0.0f), 1.0f, 0.0f);
  float near = fmaxf(in.near, 1e-4f);
  if (!(near < in.far)) return HUGE;
  float step = fmaxf(in.far - near, 0.0f) / (float)MARCH_STEPS;
  int first = 1;
  for (; first <= MARCH_STEPS; ++first)
    if (height(along(o, near + step * (float)first, d), s) < 0.0f) break;
  if (first > MARCH_STEPS) return HUGE;
  float outer = near + step * (float)(first - 1), inner = near + step * (float)first;
  float f_outer = fmaxf(height(along(o, outer, d), s), 1e-9f);
  float f_inner = fminf(height(along(o, inner, d), s), -1e-9f);
  bool moved_inner = false, moved_outer = false;
  for (int k = 0; k < MARCH_REFINEMENTS; ++k) {
    float middle = outer + (inner - outer) * (f_outer / (f_outer - f_inner));
    float f = height(along(o, middle, d), s);
    bool is_inner = f < 0.0f;
    if (is_inner) {
      f_outer = fmaxf(moved_inner ? 0.5f * f_outer : f_outer, 1e-12f);
      f_inner = fminf(f, -1e-9f);
      inner = middle;
    } else {
      f_inner = fminf(moved_outer ? 0.5f * f_inner : f_inner, -1e-9f);
      f_outer = fmaxf(f, 1e-12f);
      outer = middle;
    }
    moved_inner = is_inner;
    moved_outer = !is_inner;
  }
  return outer + (inner - outer) * (f_outer / (f_outer - f_inner));
}

__device__ V gradient(V p, Shape s) {
  const float e = 2e-3f;
  float x = height(make_v(p.x + e, p.y, p.z), s) - height(make_v(p.x - e, p.y, p.z), s);
  float y = height(make_v(p.x, p.y + e, p.z), s) - height(make_v(p.x, p.y - e, p.z), s);
  float z = height(make_v(p.x, p.y, p.z + e), s) - height(make_v(p.x, p.y, p.z - e), s);
  return make_v(x / (2.0f * e), y / (2.0f * e), z / (2.0f * e));
}
"""
