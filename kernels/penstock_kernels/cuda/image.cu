#include "common.cuh"
// Images of any size, as decoders give them (bytes, row by row, red green blue), to one batch for a network.

// Image i begins at byte start[i] of the slab and is size[2i] high and size[2i + 1] wide, 3 channels. out:
// [images, 3, height, width] of pixel * scale[channel] + shift[channel]. Bilinear between the four nearest
// pixels, centres aligned, without a filter against aliasing. One thread per pixel of out.
template <class D>
__global__ void image_normalise(const unsigned char* __restrict__ slab, const long long* __restrict__ start,
                                const int* __restrict__ size, const float* __restrict__ scale,
                                const float* __restrict__ shift, D* __restrict__ out, int height, int width) {
  int x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y, image = blockIdx.z;
  if (x >= width) return;
  int own_height = size[2 * image], own_width = size[2 * image + 1];
  const unsigned char* pixels = slab + start[image];

  float fy = (y + 0.5f) * own_height / height - 0.5f, fx = (x + 0.5f) * own_width / width - 0.5f;
  fy = fminf(fmaxf(fy, 0), own_height - 1), fx = fminf(fmaxf(fx, 0), own_width - 1);
  int top = int(fy), left = int(fx);
  float down = fy - top, right = fx - left;
  long long above = (long long)top * own_width, below = (long long)min(top + 1, own_height - 1) * own_width;
  int next = min(left + 1, own_width - 1);

  long long plane = (long long)height * width;
  D* to = out + image * 3 * plane + (long long)y * width + x;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    float a = pixels[(above + left) * 3 + c], b = pixels[(above + next) * 3 + c];
    float d = pixels[(below + left) * 3 + c], e = pixels[(below + next) * 3 + c];
    float upper = a + (b - a) * right, lower = d + (e - d) * right;
    to[c * plane] = D((upper + (lower - upper) * down) * scale[c] + shift[c]);
  }
}
